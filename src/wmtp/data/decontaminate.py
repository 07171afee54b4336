"""Training examples that overlap with evaluation tasks, found by shared n-grams of words.

The method is that of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C): texts are compared
without case, punctuation and white space, and 13 words in a row that both have are an overlap.
Here the whole example goes, where GPT-3 cut it up. Texts of fewer words are found when the prompt
is the same as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from wmtp.data.example import Example

_WORD = re.compile(r"\w+")
_SHOWN = 3


def words(text: str) -> list[str]:
    """Return the words of `text` (letters, digits and underscores) in lower case."""
    return _WORD.findall(text.casefold())


class EvaluationTexts:
    """The n-grams and prompts of an evaluation set.

    ngram: words in a row. Memory: 8 bytes and a reference per n-gram, which is hashed.
    """

    def __init__(self, examples: Iterable[Example], ngram: int = 13) -> None:
        self.ngram = ngram
        self._task_of: dict[bytes, str] = {}
        for example in examples:
            for key in self._keys(example):
                self._task_of.setdefault(key, example.task_id)

    def overlaps(self, example: Example) -> list[str]:
        """Return the tasks that `example` shares an n-gram or its prompt with, without repeats.

        Where several tasks hold the same n-gram, the first of them stands for all.
        """
        found = (self._task_of.get(key) for key in self._keys(example))
        return list(dict.fromkeys(task for task in found if task is not None))

    def _keys(self, example: Example) -> Iterator[bytes]:
        prompt = words(example.prompt)
        if prompt:
            yield _digest(["prompt", "", *prompt])
        text = [*prompt, *words(example.completion)]
        for start in range(len(text) - self.ngram + 1):
            yield _digest(text[start : start + self.ngram])


def _digest(text: list[str]) -> bytes:
    return blake2b(" ".join(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()


@dataclass
class _Found:
    """Which training examples overlap with an evaluation set."""

    examples: int = 0
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def line(self, name: str, total: int, done: str) -> str:
        if not self.examples:
            return f"decontamination: none of {total} training examples overlaps with {name}"
        shown = ", ".join(f"{trained} with {task}" for trained, task in self.pairs[:_SHOWN])
        more = f" and {len(self.pairs) - _SHOWN} more" if len(self.pairs) > _SHOWN else ""
        tasks = len({task for _, task in self.pairs})
        return (
            f"decontamination: of {total} training examples {self.examples} overlap with {tasks} "
            f"tasks of {name} and were {done}: {shown}{more}"
        )


def decontaminated(
    examples: Iterable[Example],
    evaluation: dict[str, EvaluationTexts],
    *,
    drop: bool,
    notices: list[str],
) -> Iterator[Example]:
    """Yield the examples, without those that overlap with an evaluation set where `drop` is set.

    evaluation: the sets by the names that messages use. notices: gets a line with the counts of each
    when the last example was taken.
    """
    found = {name: _Found() for name in evaluation}
    total = 0
    try:
        for example in examples:
            total += 1
            clean = True
            for name, texts in evaluation.items():
                if tasks := texts.overlaps(example):
                    clean = False
                    found[name].examples += 1
                    found[name].pairs += [(example.task_id, task) for task in tasks]
            if clean or not drop:
                yield example
    finally:  # also when no more examples are wanted
        done = "dropped" if drop else "kept"
        notices += [one.line(name, total, done) for name, one in found.items()]
