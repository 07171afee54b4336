"""Mutate a set of examples: verified incorrect ones from correct ones, into a file."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wmtp.data.example import Example
from wmtp.data.example_files import require_ending, write_file
from wmtp.data.verified_mutants import Found, Outcome, Run, Search, Trial, search
from wmtp.display import Display
from wmtp.errors import DataError, OutputError
from wmtp.inputs import read_jsonl
from wmtp.outputs import JsonlWriter, append_jsonl, claim
from wmtp.pipeline.examples import new_file
from wmtp.sandbox import Program, Sandbox, Verdict

_EXCEPTION = re.compile(r"(?:while the program was loaded: )?([A-Za-z_]\w*)")
_SHOWN_ERROR = re.compile(r"Error$|Exception$")


@dataclass(frozen=True, slots=True)
class Mutation:
    """What is made. keep: outcomes of mutants that are written, `failed` among them."""

    search: Search
    keep: frozenset[Outcome] = frozenset({"failed"})


def mutate(
    examples: Sequence[Example],
    output: Path,
    settings: Mutation,
    sandbox: Sandbox,
    *,
    resume: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Write `examples` with mutants after each to a new file and return what became of them all.

    Examples with tests whose reward is 1 or unknown are run, and mutated when they pass, which makes
    the reward 1; the others are written as they are. One that does not pass is left out and named
    in `skipped`. Verdicts are kept in the folder `OUTPUT.partial` until the file is whole, so that
    `resume` runs nothing twice. The same examples and settings give the same bytes, whatever the
    number of workers and the interruptions. Raises `DataError` when nothing can be mutated and
    `OutputError` when the output, or a state of other settings, is there.
    """
    display = display or Display()
    require_ending(output)
    unique = list(dict.fromkeys(_verifiable(example) or example for example in examples))
    chosen = [example for example in unique if _verifiable(example)]
    if not chosen:
        raise DataError(
            f"none of the {len(examples)} examples can be mutated: that takes tests, and a reward "
            "that is 1 or unknown. Add the field `tests`, or choose another source."
        )
    with new_file(output) as state:
        _require_resumed(state, resume)
        claim(state, _claimed(unique, settings, sandbox), "a mutation")
        with _Journal(state / "verdicts.jsonl") as journal, display.stage("mutate") as update:
            found = search(
                [[example] for example in chosen],
                journal.replay(sandbox.judge),
                settings.search,
                update,
            )
        writer = _Writer(unique, found, settings.keep)
        nothing = writer.why_nothing()
        if nothing is None:
            write_file(output, writer.examples())
        for file in ("settings.json", "verdicts.jsonl"):
            (state / file).unlink()
    if nothing is not None:
        raise DataError(nothing)
    counts = {"examples": len(examples), "repeated": len(examples) - len(unique)}
    return {"output": str(output), **counts, **writer.statistics()}


def _verifiable(example: Example) -> Example | None:
    """Return what an example is when it passes its tests, None where that is not the question."""
    if not (example.tests or "").strip() or example.is_correct is False:
        return None
    return replace(example, reward=1.0)


def _require_resumed(state: Path, resume: bool) -> None:
    """Refuse to go on with what another call began unless that is asked for."""
    if (state / "settings.json").exists() and not resume:
        raise OutputError(
            f"{state}: an unfinished mutation is there. Add --resume to go on with it, or delete "
            "this folder."
        )


def _claimed(examples: Sequence[Example], settings: Mutation, sandbox: Sandbox) -> dict[str, Any]:
    """Return what a state must agree in."""
    state = hashlib.sha256()
    for example in examples:
        state.update(json.dumps(example.to_json()).encode() + b"\n")
    return {
        "examples": state.hexdigest()[:16],
        "per_example": settings.search.wanted,
        "seed": settings.search.seed,
        "cpu_seconds": settings.search.limits.cpu_seconds,
        "keep": sorted(settings.keep),
        "sandbox": sandbox.tier,
    }


class _Journal:
    """Verdicts by program, appended as they come; what is there is not run again."""

    def __init__(self, path: Path) -> None:
        self._lines: JsonlWriter = append_jsonl(path)
        try:
            self._known = {
                record["sha256"]: Verdict(record["outcome"], 0.0, record["detail"])
                for record in read_jsonl(path)
            }
        except KeyError as error:
            raise DataError(f"{path}: a line without {error}. Delete {path.parent}.") from error

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()

    def replay(self, run: Run) -> Run:
        """Return `run` with known verdicts in place of running; errors are not kept."""
        return lambda programs: self._replay(run, programs)

    def _replay(self, run: Run, programs: Iterable[Program]) -> Iterator[tuple[int, Verdict]]:
        fresh: list[tuple[int, str]] = []
        known: list[tuple[int, Verdict]] = []

        def unknown() -> Iterator[Program]:
            for index, program in enumerate(programs):
                key = _key(program)
                if key in self._known:
                    known.append((index, self._known[key]))
                else:
                    fresh.append((index, key))
                    yield program

        for place, verdict in run(unknown()):
            index, key = fresh[place]
            if verdict.outcome != "error":
                self._lines.write(
                    {"sha256": key, "outcome": verdict.outcome, "detail": verdict.detail}
                )
                self._known[key] = verdict
            yield index, verdict
        yield from known


def _key(program: Program) -> str:
    text = json.dumps([program.code, program.tests, program.limits.cpu_seconds])
    return hashlib.sha256(text.encode()).hexdigest()


class _Writer:
    """Puts originals and mutants into the order of the input, and counts."""

    def __init__(
        self, examples: Sequence[Example], found: list[Found], keep: frozenset[Outcome]
    ) -> None:
        self._examples = examples
        self._found = found
        self._keep = keep
        self._written: Counter[str] = Counter()

    def why_nothing(self) -> str | None:
        """Return why there is nothing to write, None when some mutant failed."""
        if any(t.outcome == "failed" for result in self._found for t in result.trials):
            return None
        passed = [f for f in self._found if f.verdicts[0].outcome == "passed"]
        ran = sum(len(result.trials) for result in self._found)
        first = next((f for f in self._found if f.verdicts[0].outcome != "passed"), None)
        why = "" if first is None else f" {first.originals[0].task_id}: {_reason(first)}."
        return (
            f"nothing to write: of {len(self._found)} solutions with tests {len(passed)} pass them, "
            f"and none of their {ran} mutants fails.{why} Check tests and code_prefix, or raise "
            "--cpu-seconds."
        )

    def examples(self) -> Iterator[Example]:
        """Yield each original with its mutants, without those that are there already."""
        results = iter(self._found)
        seen = {_identity(example) for example in self._examples}
        for example in self._examples:
            if not _verifiable(example):
                self._written["unchanged"] += 1
                yield example
                continue
            result = next(results)
            if result.verdicts[0].outcome != "passed":
                continue
            self._written["original"] += 1
            yield example
            for trial in result.trials:
                if trial.outcome not in self._keep:
                    continue
                mutant = labelled(trial)
                if _identity(mutant) in seen:
                    self._written["duplicate"] += 1
                    continue
                seen.add(_identity(mutant))
                self._written[trial.outcome] += 1
                yield mutant

    def statistics(self) -> dict[str, Any]:
        """Return the counts; complete once `examples` has ended."""
        operators: dict[str, Counter[str]] = {}
        failures: Counter[str] = Counter()
        for trial in (trial for result in self._found for trial in result.trials):
            counts = operators.setdefault(trial.operator, Counter())
            counts.update(["made", trial.outcome])
            if trial.outcome == "failed":
                failures[failure_kind(trial.verdict.detail)] += 1
        names = ("unchanged", "original", "failed", "equivalent", "timeout")
        columns = ("made", "failed", "equivalent", "timeout", "error")
        return {
            "written": {name: self._written[name] for name in names},
            "without_mutant": sum(
                f.verdicts[0].outcome == "passed"
                and not any(t.outcome == "failed" for t in f.trials)
                for f in self._found
            ),
            "duplicates": self._written["duplicate"],
            "skipped": [
                {"task_id": f.originals[0].task_id, "reason": _reason(f)}
                for f in self._found
                if f.verdicts[0].outcome != "passed"
            ],
            "operators": {
                name: {column: operators[name][column] for column in columns}
                for name in sorted(operators)
            },
            "failures": dict(sorted(failures.items(), key=lambda pair: (-pair[1], pair[0]))),
        }


def labelled(trial: Trial) -> Example:
    """Return the mutant as an example whose source names its outcome and the kind of its change."""
    kind = {"failed": "mutant", "equivalent": "equivalent", "timeout": "timeout"}[trial.outcome]
    example = trial.example()
    return replace(example, source=f"{example.source}/{kind}/{trial.operator}".lstrip("/"))


def failure_kind(detail: str) -> str:
    """Return the exception that a verdict tells of, or "other".

    The text comes from the judged program: good for counts, not for decisions.
    """
    found = _EXCEPTION.match(detail)
    name = found[1] if found else ""
    known = getattr(builtins, name, None)
    is_built_in = isinstance(known, type) and issubclass(known, BaseException)
    return name if is_built_in or _SHOWN_ERROR.search(name) else "other"


def _reason(found: Found) -> str:
    verdict = found.verdicts[0]
    return f"{verdict.outcome}{': ' if verdict.detail else ''}{verdict.detail}"


def _identity(example: Example) -> bytes:
    text = json.dumps([example.task_id, example.prompt, example.completion])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
