"""MBPP+: 378 problems of MBPP, mended, with 35 times as many tests (Liu et al., arXiv:2305.01210)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source, require_new
from wmtp.data.sources.evalplus import all_inputs, differential_tests, without_numpy
from wmtp.data.sources.fields import with_lf
from wmtp.data.sources.humaneval import SPLITS
from wmtp.data.sources.mbpp import docstring_prompt
from wmtp.data.splits import require_split
from wmtp.errors import DataError

HUB_ID = "evalplus/mbppplus"
_HOW = (
    "Download MbppPlus.jsonl.gz from the releases of github.com/evalplus/mbppplus_release and set "
    "path, or set hub: true."
)


class MbppPlus(Source):
    """MBPP+'s problems with their reference solutions, reward 1, in the one split `test`.

    Pair it with sanitized MBPP: the full file has other names and signatures for the same number.
    Five inputs of Mbpp/255 are left out of evalplus's file: see `_is_too_large`.
    """

    licence: ClassVar[str] = "Apache 2.0"
    split_names: ClassVar[tuple[str, ...]] = SPLITS

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(
            None, description="MbppPlus.jsonl.gz of evalplus, or a file with the hub's fields."
        )
        hub: bool = Field(False, description=f"Load {HUB_ID} through `datasets` instead.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield one example per problem, in the order of the file."""
        require_split("mbppplus", split, SPLITS)
        hub = HUB_ID if self.config.hub else None
        seen: set[str] = set()
        # Infinity is among the inputs of Mbpp/404.
        for where, record in read_records(self.config.path, hub, how=_HOW, allow_nan=True):
            make = _of_evalplus if "base_input" in record else _of_hub
            example = make(record, where)
            require_new(example.task_id, seen, where)
            yield example


def _is_too_large(number: int, given: list[Any]) -> bool:
    """Return whether an answer has more than a million elements, too many to cross to the tests.

    That is so of 5 of the 112 inputs of Mbpp/255 (combinations with repetition): their answers have
    6 to 128 million elements, the largest a gigabyte as text.
    """
    if number != 255:
        return False
    choices, length = len(given[0]), given[1]
    return math.comb(max(choices + length - 1, 0), length) * length > 1_000_000


def _of_evalplus(record: dict[str, Any], where: str) -> Example:
    reference = field_of(record, "canonical_solution", str, where, _HOW)
    task_id = field_of(record, "task_id", str, where, _HOW)
    try:
        number = int(task_id.removeprefix("Mbpp/"))
        inputs = [
            _arguments(number, given)
            for given in all_inputs(record, where)
            if not _is_too_large(number, given)
        ]
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise DataError(f"{where}: {task_id}: not the inputs of MBPP+ ({error}). {_HOW}") from error
    tests = differential_tests(record, reference, inputs, "mbpp", where)
    return _example(number, field_of(record, "prompt", str, where, _HOW), reference, tests)


def _of_hub(record: dict[str, Any], where: str) -> Example:
    number = field_of(record, "task_id", int, where, _HOW)
    imports = field_of({"test_imports": [], **record}, "test_imports", list, where, _HOW)
    asserts = field_of(record, "test_list", list, where, _HOW)
    if not asserts or not all(isinstance(line, str) for line in [*imports, *asserts]):
        raise DataError(f"{where}: the tests must be strings, with at least one assert. {_HOW}")
    program = without_numpy(field_of(record, "test", str, where, _HOW))
    return _example(
        number,
        docstring_prompt(field_of(record, "prompt", str, where, _HOW), asserts[0]),
        field_of(record, "code", str, where, _HOW),
        "\n".join([*imports, program]) + "\n",
    )


def _example(number: int, prompt: str, code: str, tests: str) -> Example:
    return Example(
        task_id=f"mbppplus/{number}",
        prompt=prompt,
        completion=with_lf(code).strip(),
        reward=1.0,
        tests=tests,
        source="mbppplus",
        split="test",
    )


def _tuples(value: Any, depth: int) -> Any:
    """Return nested lists with those `depth` below the top as tuples; other values as they are."""
    if not isinstance(value, list):
        return value
    return tuple(value) if depth == 0 else [_tuples(inner, depth - 1) for inner in value]


def _all_tuples(value: Any) -> Any:
    return tuple(map(_all_tuples, value)) if isinstance(value, list) else value


# JSON has no tuples, sets and complex numbers. This is what the arguments of a task are made of, as
# evalplus has it; what is not named is as it stands.
_ARGUMENTS: tuple[tuple[tuple[int, ...], Callable[[list[Any]], list[Any]]], ...] = (
    (
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424),
        lambda given: [tuple(value) for value in given],
    ),
    (
        (429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
        lambda given: [tuple(value) for value in given],
    ),
    (
        (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
        lambda given: [_tuples(value, 1) for value in given],
    ),
    ((75, 413, 444, 753), lambda given: [_tuples(given[0], 1), *given[1:]]),
    ((106, 750), lambda given: [given[0], tuple(given[1])]),
    ((115,), lambda given: [[set(part) if part else {} for part in given[0]]]),
    ((124,), lambda given: [float(given[0]), complex(given[1])]),
    ((250, 405, 446, 617, 720, 763, 808), lambda given: [tuple(given[0]), given[1]]),
    ((252,), lambda given: [complex(given[0])]),
    ((259, 401, 445), lambda given: [tuple(_tuples(value, 1)) for value in given]),
    ((278,), lambda given: [tuple(_tuples(given[0], 1))]),
    ((307,), lambda given: [tuple(given[0]), *given[1:]]),
    ((580, 615, 791), lambda given: [_all_tuples(value) for value in given]),
    ((722,), lambda given: [{k: tuple(v) for k, v in given[0].items()}, *given[1:]]),
)
_ARGUMENTS_OF = {number: convert for numbers, convert in _ARGUMENTS for number in numbers}


def _arguments(number: int, given: list[Any]) -> list[Any]:
    convert = _ARGUMENTS_OF.get(number)
    return convert(given) if convert else given
