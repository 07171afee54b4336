"""What a kind of problem is, and the problems that it makes by filling its slots."""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wmtp.data.sources.minicode.kinds.parts import Part, put
from wmtp.data.sources.minicode.problems import Problem, asserts

TESTS = 12
OTHERS = 3  # other parts tried in each slot, of which the tests must tell
MUST_DIFFER = 2
WIDTH = 96

_HOLE = re.compile(r"<(\w+)(?::(\w+))?(?: ([^<>]+))?>")
_NUMBER = re.compile(r"\d+")

Inputs = Callable[[random.Random, Sequence[int]], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what is asked, what it means, ways to write it, and what to test it on.

    slots: the parts of which one is drawn each. phrasings, styles: English and function bodies with
    holes: `<p x>` is the words or the code of the part in slot p with operand x (several are split
    at ";"), `<p:start>` a further piece of its code, `<v>` the argument. meaning: a function of the
    argument and, by name, of what the parts mean; it shares no code with the styles. edges: inputs
    that every problem is tested on. draw: one more input, from a generator and the numbers that
    the words mention.
    """

    name: str
    level: int
    variables: tuple[str, ...]
    slots: Mapping[str, Sequence[Part]]
    phrasings: tuple[str, ...]
    meaning: Callable[..., Any]
    styles: tuple[str, ...]
    edges: tuple[Any, ...]
    draw: Inputs

    def size(self) -> int:
        """Return how many compositions there are."""
        count = 1
        for parts in self.slots.values():
            count *= len(parts)
        return count


@dataclass(frozen=True, slots=True)
class Filled(Problem):
    """A kind with its slots filled, put into words once."""

    kind: Kind
    parts: Mapping[str, Part]
    variable: str

    @property
    def family(self) -> str:
        """The kind's name."""
        return self.kind.name

    def value(self, argument: Any) -> Any:
        """Return what the function asked for returns."""
        return _evaluate(self.kind, self.parts, argument)

    def solutions(self, number: int) -> list[str]:
        """Return up to `number` different function bodies, in an order set by the seed."""
        rng = random.Random(f"solutions/{self.seed}")
        styles = rng.sample(self.kind.styles, len(self.kind.styles))
        codes = (_code(style, self.parts, self.variable) for style in styles)
        return list(dict.fromkeys(textwrap.indent(code, "    ") for code in codes))[:number]

    def more_tests(self, number: int) -> str:
        """Return asserts on further random inputs."""
        rng = random.Random(f"more/{self.seed}")
        inputs = [self.kind.draw(rng, _near(self.key)) for _ in range(number)]
        return asserts(self.function, inputs, [self.value(value) for value in inputs])


def fill(kind: Kind, rng: random.Random) -> dict[str, Part]:
    """Return a part for every slot."""
    return {slot: rng.choice(parts) for slot, parts in kind.slots.items()}


def make_filled(kind: Kind, parts: Mapping[str, Part], seed: int) -> Filled | None:
    """Return the problem, or None when its tests do not tell it from others of its kind.

    In every slot, most of a few other parts must give other outputs somewhere: a solution that
    confuses them, or leaves the part out, fails.
    """
    key = f"{kind.name}: " + "; ".join(f"{slot}={part.words}" for slot, part in parts.items())
    rng = random.Random(f"{seed}/{key}")
    near = _near(key)
    inputs = list(kind.edges)
    inputs += [kind.draw(rng, near) for _ in range(TESTS - len(inputs))]
    outputs = [_evaluate(kind, parts, value) for value in inputs]
    if len({repr(output) for output in outputs}) < (2 if isinstance(outputs[0], bool) else 3):
        return None
    if not all(_told_apart(kind, parts, slot, inputs, outputs, rng) for slot in kind.slots):
        return None
    name, variable = rng.choice("fgh"), rng.choice(kind.variables)
    sentence = _fill(rng.choice(kind.phrasings), parts, variable, lambda part, _: part.words)
    lines = textwrap.wrap(sentence, WIDTH, break_long_words=False, break_on_hyphens=False)
    prompt = "".join(f"# {line}\n" for line in lines) + f"def {name}({variable}):\n"
    tests = asserts(name, inputs, outputs)
    return Filled(key, kind.level, prompt, tests, f"{seed}/{key}", kind, parts, variable)


def _told_apart(
    kind: Kind,
    parts: Mapping[str, Part],
    slot: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    rng: random.Random,
) -> bool:
    """Return whether most of a few other parts in `slot` give other outputs somewhere."""
    others = [part for part in kind.slots[slot] if part is not parts[slot]]
    others = rng.sample(others, min(OTHERS, len(others)))
    differ = sum(
        any(
            _evaluate(kind, {**parts, slot: other}, value) != output
            for value, output in zip(inputs, outputs, strict=True)
        )
        for other in others
    )
    return differ >= min(MUST_DIFFER, len(others))


def _near(key: str) -> list[int]:
    return [int(k) + d for k in _NUMBER.findall(key) for d in (-1, 0, 1)]


def _evaluate(kind: Kind, parts: Mapping[str, Part], argument: Any) -> Any:
    return kind.meaning(argument, **{slot: part.of for slot, part in parts.items()})


def _code(style: str, parts: Mapping[str, Part], variable: str) -> str:
    text = textwrap.dedent(style).strip("\n")
    return _fill(
        text, parts, variable, lambda part, piece: part.also[piece] if piece else part.code
    )


def _fill(
    template: str,
    parts: Mapping[str, Part],
    variable: str,
    text_of: Callable[[Part, str | None], str],
) -> str:
    def of_hole(found: re.Match[str]) -> str:
        slot, piece, operands = found.groups()
        given = operands.split("; ") if operands else []
        return put(text_of(parts[slot], piece), given)

    return _HOLE.sub(of_hole, template.replace("<v>", variable))
