"""The one record that every data source yields."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import Any

from wmtp.errors import DataError, near_match

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def require_text(text: str, where: str = "") -> None:
    """Raise a `DataError` when `text` holds half of a surrogate pair, which no tokenizer takes."""
    if found := _HALF_PAIR.search(text):
        raise DataError(f"{where}half of a surrogate pair ({found[0]!a}) is no text. Remove it.")


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and one completion, with what is known about the completion.

    task_id: the problem; several examples may share it.
    prompt, completion: text; the loss covers the completion only.
    reward: how right the completion is, 0 to 1, or None when unknown. 1 means verified correct.
    tests: Python source that raises when the program is wrong, or None.
    io_tests: pairs of what a whole program reads from standard input and has to write to standard
        output. time_limit_seconds: what it may take for one of them. None when unknown.
    code_prefix: what stands before the completion to make it a program ("" when the completion is
        the whole program). The program that is verified is code_prefix + completion, then tests.
    difficulty: larger is harder; the scale is the source's own. None when unknown.
    source, split: where the example comes from.
    fault_spans: half-open character ranges of the *completion* that a mutation changed, or that
        differ from the corrected program. The empty range at its end says that something is missing
        there.
    """

    task_id: str
    prompt: str
    completion: str
    reward: float | None = None
    tests: str | None = None
    code_prefix: str = ""
    difficulty: float | None = None
    source: str = ""
    split: str = "train"
    fault_spans: tuple[tuple[int, int], ...] = ()
    io_tests: tuple[tuple[str, str], ...] = ()
    time_limit_seconds: float | None = None

    def __post_init__(self) -> None:
        require_text(self.prompt + self.completion, f"{self.task_id}: ")
        if self.reward is not None and not 0.0 <= self.reward <= 1.0:
            raise DataError(f"{self.task_id}: reward {self.reward} is outside 0 to 1.")
        for start, stop in self.fault_spans:
            length = len(self.completion)
            if not (0 <= start < stop <= length or start == stop == length):
                raise DataError(
                    f"{self.task_id}: fault span {(start, stop)} lies outside the completion "
                    f"of {length} characters."
                )

    @property
    def problem(self) -> int:
        """A number of 63 bits that is the same for all examples of a problem, in every run."""
        name = f"{self.source}\0{self.task_id}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1

    @property
    def is_correct(self) -> bool | None:
        """True when the reward is 1, False when it is lower, None when it is unknown."""
        return None if self.reward is None else self.reward >= 1.0

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `json.dumps` takes and `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Example:
        """Build an example from a JSON object; unknown or missing keys are a `DataError`."""
        known = cls.__dataclass_fields__
        for key in record:
            if key not in known:
                raise DataError(f"unknown field {key!r}.{near_match(key, known)}")
        for key in ("task_id", "prompt", "completion"):
            if not isinstance(record.get(key), str):
                raise DataError(f"field {key!r} must be a string, found {record.get(key)!r}.")
        spans = tuple((int(start), int(stop)) for start, stop in record.get("fault_spans", ()))
        io_tests = tuple((str(given), str(wanted)) for given, wanted in record.get("io_tests", ()))
        return cls(**{**record, "fault_spans": spans, "io_tests": io_tests})
