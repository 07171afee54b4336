"""How fast minicode is built, and what its hidden tests let through.

    python benchmarks/minicode.py [--problems 25000] [--workers 2] [--power 40]

The first part builds all five levels in equal shares with two correct and two incorrect solutions per
problem, every one of them run. It prints examples, CPU seconds of all processes, wall seconds, the
highest resident memory of the main process, and the digest of the examples, which must not depend on
--workers.

The second part takes --power problems of each level and all mutants of two of their solutions. `killed`
fail the hidden tests; of those that pass, `missed` fail on 200 further inputs, and the others (`alike`)
differ from the original nowhere that was tried. The score is killed / (killed + missed).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import time
from collections import Counter

from wmtp.data.mutation import mutants
from wmtp.data.sources.minicode.grammar import make_problems, solutions
from wmtp.data.sources.minicode.source import Minicode, stream
from wmtp.data.sources.minicode.verification import LIMITS, SCREEN_SECONDS
from wmtp.sandbox import Program, Sandbox

MORE = 200


def cpu_seconds():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in usage)


def measure_build(problems, workers):
    config = Minicode.Config(num_problems=problems, levels=(1, 1, 1, 1, 1))
    digest, by_level = hashlib.sha256(), {}
    started, cpu = time.perf_counter(), cpu_seconds()
    for solved in stream(config, workers=workers):
        by_level.setdefault(solved.problem.level, Counter()).update(solved.counts())
        for example in solved.examples():
            digest.update(json.dumps(example.to_json()).encode())
    wall, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    columns = ("problems", "correct", "incorrect", "equivalent", "undecided")
    print("level " + "".join(f"{name:>12}" for name in columns))
    for level, counts in by_level.items():
        print(f"{level:<6}" + "".join(f"{counts[name]:>12}" for name in columns))
    total = sum(counts["correct"] + counts["incorrect"] for counts in by_level.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{total} examples, {workers} workers: {cpu:.0f} CPU seconds, {wall:.0f} s wall, "
        f"{memory:.0f} MiB at most in the main process, sha256 {digest.hexdigest()[:16]}"
    )


def measure_power(problems_per_level):
    config = Minicode.Config(num_problems=5 * problems_per_level, levels=(1, 1, 1, 1, 1), seed=1)
    by_level = {}
    with Sandbox(mode="limits-only") as sandbox:
        for problem in make_problems(config):
            counts = by_level.setdefault(problem.level, Counter())
            codes = [
                mutant.code
                for body in solutions(problem, 2)
                for mutant in mutants(
                    problem.prompt + body, region=(len(problem.prompt), len(problem.prompt + body))
                )
            ]
            survivors = run(sandbox, codes, problem.tests, counts, "killed")
            alike = run(sandbox, survivors, problem.more_tests(MORE), counts, "missed")
            counts["alike"] += len(alike)
    columns = ("killed", "missed", "alike", "endless")
    print("level " + "".join(f"{name:>10}" for name in columns) + "     score")
    for level, counts in by_level.items():
        score = counts["killed"] / (counts["killed"] + counts["missed"])
        row = "".join(f"{counts[name]:>10}" for name in columns)
        print(f"{level:<6}{row}{100 * score:>9.2f}%")


def run(sandbox, codes, tests, counts, failed):
    """Return the codes that pass; count those that fail under the name `failed`."""
    verdicts = sandbox.screen([Program(code, tests, LIMITS) for code in codes], SCREEN_SECONDS)
    outcomes = [verdict.outcome for verdict in verdicts]
    counts[failed] += outcomes.count("failed")
    counts["endless"] += len(outcomes) - outcomes.count("failed") - outcomes.count("passed")
    return [code for code, outcome in zip(codes, outcomes, strict=True) if outcome == "passed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=25_200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--power", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.problems:
        measure_build(arguments.problems, arguments.workers)
    if arguments.power:
        measure_power(arguments.power)


if __name__ == "__main__":
    main()
