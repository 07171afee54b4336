"""MBPP: 974 crowd-sourced Python problems (Austin et al. 2021, arXiv:2108.07732)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from wmtp.config.recipe import Section
from wmtp.data.example import Example
from wmtp.data.sources.base import Source
from wmtp.data.splits import require_split
from wmtp.errors import DataError, near_match
from wmtp.outputs import numbered_jsonl

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

    class Config(MbppSection):
        """Settings of the source."""

    def splits(self) -> tuple[str, ...]:
        """Return the authors' splits."""
        return tuple(SPLITS)

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
    for where, record in _records(config):
        number = _field(record, "task_id", int, where)
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


def _records(config: MbppSection) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each record stands, for messages, and the record."""
    if config.path is None:
        if not config.hub:
            raise DataError(f"mbpp needs a file: neither path nor hub is set. {_HOW}")
        for number, record in enumerate(_hub_records()):
            yield f"{HUB_ID} record {number}", record
    elif config.hub:
        raise DataError("mbpp: give path or hub: true, not both.")
    elif Path(config.path).suffix == ".json":
        for number, record in enumerate(_json_list(Path(config.path))):
            yield f"{config.path} record {number}", record
    else:
        for number, record in numbered_jsonl(config.path):
            yield f"{config.path}:{number}", record


def _hub_records() -> Iterable[dict[str, Any]]:
    try:
        from datasets import concatenate_datasets, load_dataset
    except ImportError as error:
        raise DataError(
            f"mbpp.hub needs the package datasets: pip install datasets. {_HOW}"
        ) from error
    try:
        splits = load_dataset(HUB_ID, "full")
    except (OSError, ValueError) as error:
        raise DataError(f"{HUB_ID}: cannot be loaded from the hub ({error}). {_HOW}") from error
    return concatenate_datasets(list(splits.values()))


def _json_list(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {_HOW}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). {_HOW}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(
            f"{path}: expected a JSON list of objects, as in sanitized-mbpp.json. {_HOW}"
        )
    return records


def _example(record: dict[str, Any], number: int, split: str, where: str) -> Example:
    # The sanitized file calls the text "prompt" and has imports; the full one has set-up code.
    text = _field(record, "prompt" if "prompt" in record else "text", str, where)
    asserts = _field(record, "test_list", list, where)
    imports = _field({"test_imports": [], **record}, "test_imports", list, where)
    setup = _field({"test_setup_code": "", **record}, "test_setup_code", str, where)
    if not asserts or not all(isinstance(line, str) for line in [*imports, *asserts]):
        raise DataError(f"{where}: the tests must be strings, with at least one assert. {_HOW}")
    asserts = [line.strip() for line in asserts]
    tests = "\n".join([*imports, *([setup] if setup else []), *asserts])
    return Example(
        task_id=f"mbpp/{number}",
        prompt=f'"""\n{_lf(text).strip()}\n{_lf(asserts[0])}\n"""\n',
        completion=_lf(_field(record, "code", str, where)).rstrip(),
        reward=1.0,
        tests=_lf(tests) + "\n",
        source="mbpp",
        split=split,
    )


def _field(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "a string", int: "a whole number", list: "a list"}[kind]
        guess = "" if name in record else near_match(name, record)
        raise DataError(
            f"{where}: field {name!r} must be {expected}, found {value!r}.{guess} {_HOW}"
        )
    return value


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
