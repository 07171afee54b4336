"""Minicode problems: pipelines drawn from the grammar, put into words, with hidden tests."""

from __future__ import annotations

import hashlib
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wmtp.data.sources.minicode.operations import Domain, Operation
from wmtp.data.splits import hashed_split

TEST_SHARE = 0.1
VALIDATION_SHARE = 0.05
_JOINERS = (", then ", ", then ", ", ", "; ")


@dataclass(frozen=True, slots=True)
class Problem(ABC):
    """What is asked, and how an answer is tested.

    key: identity of the composition, whatever its wording; it alone decides the split. level: 1 to
    5, how hard it is. prompt: the comment and the `def` line. tests: asserts on the function, from
    the reference. seed: of what is still to be drawn for it.
    """

    key: str
    level: int
    prompt: str
    tests: str
    seed: str

    @property
    def split(self) -> str:
        """The split of the composition; no setting changes it, so no two settings can leak."""
        return hashed_split(self.key, test=TEST_SHARE, validation=VALIDATION_SHARE)

    @property
    def function(self) -> str:
        """The name of the function asked for."""
        return self.prompt.rpartition("def ")[2].partition("(")[0]

    @property
    @abstractmethod
    def family(self) -> str:
        """What kind of composition it is."""

    @abstractmethod
    def more_tests(self, number: int) -> str:
        """Return `number` asserts or more on further inputs: they show what `tests` let through."""

    @property
    def task_id(self) -> str:
        """The identity of the composition, the same under all settings."""
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:12]
        return f"minicode/{self.family}-{digest}"


@dataclass(frozen=True, slots=True)
class Pipeline(Problem):
    """A composition of operations, put into words once."""

    domain: Domain
    operations: tuple[Operation, ...]
    variable: str

    @property
    def family(self) -> str:
        """How many operations are composed."""
        return str(len(self.operations))

    def more_tests(self, number: int) -> str:
        """Return asserts on further inputs like those of `tests`."""
        rng = random.Random(f"more/{self.seed}")
        inputs: list[Any] = []
        while len(inputs) < number:
            inputs += _inputs(self.domain, self.key, rng)
        outputs = [apply(self.operations, value) for value in inputs]
        return asserts(self.function, inputs, outputs)


def compose(domain: Domain, level: int, rng: random.Random) -> tuple[Operation, ...]:
    """Return `level` different operations; two compositions in three end in a reduction."""
    operations: list[Operation] = []
    while len(operations) < level:
        ends = len(operations) == level - 1 and rng.random() < 2 / 3
        weights = domain.ends if ends else domain.steps
        family = rng.choices(list(weights), list(weights.values()))[0]
        operation = rng.choice(domain.families[family])
        if operation not in operations:
            operations.append(operation)
    return tuple(operations)


def composition_key(domain: Domain, operations: tuple[Operation, ...]) -> str:
    """Return the identity of a composition."""
    return f"{domain.name}: " + "; ".join(operation.key for operation in operations)


def apply(operations: tuple[Operation, ...], value: Any) -> Any:
    """Return what the composition makes of `value`: the reference interpreter."""
    for operation in operations:
        value = operation.apply(value)
    return value


def make_pipeline(
    domain: Domain, operations: tuple[Operation, ...], seed: int, level: int | None = None
) -> Pipeline | None:
    """Return the problem of a composition, or None when a step of it makes no difference.

    level: how hard it counts as; default: how many operations there are.
    """
    key = composition_key(domain, operations)
    rng = random.Random(f"{seed}/{key}")
    inputs = _inputs(domain, key, rng)
    outputs = [apply(operations, value) for value in inputs]
    if len({repr(output) for output in outputs}) < (2 if isinstance(outputs[0], bool) else 3):
        return None
    for index, operation in enumerate(operations):
        rest = operations[:index] + operations[index + 1 :]
        if not operation.reduces and [apply(rest, value) for value in inputs] == outputs:
            return None
    name, variable = rng.choice("fgh"), rng.choice(domain.variables)
    sentence = rng.choice(_JOINERS).join(rng.choice(o.phrases) for o in operations)
    tests = asserts(name, inputs, outputs)
    prompt = f"# {sentence[0].upper()}{sentence[1:]}.\ndef {name}({variable}):\n"
    level = len(operations) if level is None else level
    return Pipeline(key, level, prompt, tests, f"{seed}/{key}", domain, operations, variable)


def asserts(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> str:
    """Return the tests of a function: one line for each input and its output."""
    pairs = zip(inputs, outputs, strict=True)
    return "\n".join(f"assert {name}({value!r}) == {output!r}" for value, output in pairs)


def _inputs(domain: Domain, key: str, rng: random.Random) -> list[Any]:
    """Return eight inputs: empty, single, repeats, and random ones around the key's constants."""
    if domain.name == "text":
        pool = "aeiouabestbcdxyzABEST019  -*" + "".join(re.findall('"(.)"', key)) * 2
        words = ["".join(rng.choices(pool, k=rng.randint(5, 11))) for _ in range(5)]
        half = words[0][:4]
        return ["", rng.choice("aeB7 "), half + half[::-1], *words]
    near = [int(k) + d for k in re.findall(r"\d+", key) for d in (-1, 0, 1)]
    pool_numbers = [*range(-6, 14), *near, *near]
    lists = [rng.choices(pool_numbers, k=rng.randint(5, 9)) for _ in range(4)]
    few = rng.sample(pool_numbers, 3)
    negative = [-abs(x) - 1 for x in rng.choices(pool_numbers, k=4)]
    return [[], [rng.choice(pool_numbers)], rng.choices(few, k=7), negative, *lists]
