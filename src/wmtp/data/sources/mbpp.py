"""MBPP: 974 crowd-sourced Python problems (Austin et al. 2021, arXiv:2108.07732)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source
from wmtp.data.sources.fields import code_of, with_lf
from wmtp.data.splits import require_split
from wmtp.errors import DataError

HUB_ID = "google-research-datasets/mbpp"
# The authors' splits; "prompt" holds the few-shot examples of the paper.
SPLITS = {
    "train": range(601, 975),
    "validation": range(511, 601),
    "test": range(11, 511),
    "prompt": range(1, 11),
}
_HOW = (
    "Download mbpp.jsonl or sanitized-mbpp.json from the folder mbpp of "
    "github.com/google-research/google-research and set path, or set hub: true."
)


class MbppSection(Section):
    """Where MBPP is read from: shared by the training data and the benchmark."""

    path: str | None = Field(
        None, description="mbpp.jsonl, or sanitized-mbpp as .json or .jsonl (427 problems)."
    )
    hub: bool = Field(False, description=f"Load {HUB_ID} (full) through `datasets` instead.")


class Mbpp(Source):
    """Problems with their reference solutions, reward 1, in the authors' splits."""

    licence: ClassVar[str] = "CC BY 4.0"
    split_names: ClassVar[tuple[str, ...]] = tuple(SPLITS)

    class Config(MbppSection):
        """Settings of the source."""

    def examples(self, split: str) -> Iterator[Example]:
        """Yield one example per problem of the split, by task number."""
        return iter(load(self.config, split))


def load(config: MbppSection, split: str) -> list[Example]:
    """Return the problems of one split, by task number, with their reference solutions.

    The prompt is the docstring of InCoder and bigcode-evaluation-harness: the text and the first
    test. Line ends become LF and white space at the end of the code goes. The tests are imports,
    set-up code (it may build objects of the solution's classes), then the asserts.
    """
    require_split("mbpp", split, SPLITS)
    found: dict[int, Example] = {}
    hub = HUB_ID if config.hub else None
    for where, record in read_records(config.path, hub, config="full", how=_HOW):
        number = field_of(record, "task_id", int, where, _HOW)
        if not any(number in numbers for numbers in SPLITS.values()):
            raise DataError(f"{where}: task_id must be 1 to 974, found {number}. {_HOW}")
        if number in found:
            raise DataError(f"{where}: task_id {number} appears twice. Use one copy of the file.")
        found[number] = _example(record, number, split, where)
    chosen = [found[number] for number in sorted(found) if number in SPLITS[split]]
    if not chosen:
        raise DataError(
            f"{config.path or HUB_ID}: no problem of split {split!r} "
            f"(task_id {SPLITS[split].start} to {SPLITS[split].stop - 1}). {_HOW}"
        )
    return chosen


def _example(record: dict[str, Any], number: int, split: str, where: str) -> Example:
    # The sanitized file calls the text "prompt" and has imports; the full one has set-up code.
    text = field_of(record, "prompt" if "prompt" in record else "text", str, where, _HOW)
    asserts = field_of(record, "test_list", list, where, _HOW)
    imports = field_of({"test_imports": [], **record}, "test_imports", list, where, _HOW)
    setup = field_of({"test_setup_code": "", **record}, "test_setup_code", str, where, _HOW)
    if not asserts or not all(isinstance(line, str) for line in [*imports, *asserts]):
        raise DataError(f"{where}: the tests must be strings, with at least one assert. {_HOW}")
    asserts = [line.strip() for line in asserts]
    tests = "\n".join([*imports, *([setup] if setup else []), *asserts])
    return Example(
        task_id=f"mbpp/{number}",
        prompt=docstring_prompt(text, asserts[0]),
        completion=code_of(record, "code", where, _HOW),
        reward=1.0,
        tests=with_lf(tests) + "\n",
        source="mbpp",
        split=split,
    )


def docstring_prompt(text: str, first_test: str) -> str:
    """Return the docstring that asks for a program."""
    return f'"""\n{with_lf(text).strip()}\n{with_lf(first_test).strip()}\n"""\n'
