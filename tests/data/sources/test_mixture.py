"""Several sources as one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.sources.base import Source
from wmtp.data.sources.mixture import Mixture
from wmtp.data.splits import require_split
from wmtp.errors import DataError


class Counted(Source):
    """As many examples as it is told, in the splits train and dev."""

    class Config(Section):
        num: int

    def examples(self, split: str) -> Iterator[Example]:
        require_split("counted", split, ("train", "dev"))
        for i in range(self.config.num):
            yield Example(str(i), "p", "c", source="own name")


def mixture(**parts: tuple[int, float]) -> Mixture:
    return Mixture({n: (Counted(Counted.Config(num=k)), w) for n, (k, w) in parts.items()})


def test_every_beginning_holds_the_weights_and_nothing_is_lost() -> None:
    examples = list(mixture(a=(100, 0.7), b=(100, 0.3)).examples("train"))
    assert len(examples) == 200
    for num in range(1, 140):
        assert abs(sum(e.source == "a" for e in examples[:num]) - 0.7 * num) <= 1
    for name in "ab":
        assert [e.task_id for e in examples if e.source == name] == [str(i) for i in range(100)]


def test_a_part_that_ends_leaves_the_rest_to_the_others() -> None:
    names = [e.source for e in mixture(a=(2, 0.5), b=(5, 0.5)).examples("dev")]
    assert names == ["a", "b", "a", "b", "b", "b", "b"]


def test_a_split_that_one_part_lacks_is_an_error() -> None:
    with pytest.raises(DataError, match="counted has no split 'validation'"):
        list(mixture(a=(2, 1.0)).examples("validation"))
