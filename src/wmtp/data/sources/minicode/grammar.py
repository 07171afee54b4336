"""Which minicode problems there are, and their correct solutions."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from pydantic import Field, model_validator

from wmtp.config.section import Section
from wmtp.data.sources.minicode.domains import numbers, text
from wmtp.data.sources.minicode.kinds import LEVELS, PIPELINE_LEVEL, kinds
from wmtp.data.sources.minicode.kinds.kind import Filled, fill, make_filled
from wmtp.data.sources.minicode.problems import Pipeline, Problem, compose, make_pipeline
from wmtp.data.sources.minicode.rendering import STYLES, Style, pipeline_solutions
from wmtp.errors import DataError

Share = Annotated[float, Field(ge=0)]


class ProblemSection(Section):
    """Which problems there are: shared by the training data and the benchmark."""

    num_problems: int = Field(3000, gt=0, description="Problems over all levels and splits.")
    levels: tuple[Share, ...] | None = Field(
        None,
        min_length=1,
        max_length=LEVELS,
        strict=False,
        description="Shares of the levels 1, 2, ...: reductions, pipelines, nested loops and "
        "dictionaries, recursion and stacks, parsers and machines. Default: pipelines only, and their "
        "number of operations is the level.",
    )
    level_shares: tuple[Share, ...] = Field(
        (0.05, 0.55, 0.3, 0.1),
        min_length=1,
        max_length=5,
        strict=False,
        description="Shares of pipelines with 1, 2, ... operations; scaled to sum to 1.",
    )
    largest_constant: int = Field(
        4, ge=3, le=9, description="Constants in words and code are 2 to this: fewer are easier."
    )
    text_share: float = Field(0.0, ge=0, le=1, description="Share of pipelines on strings.")
    seed: int = Field(0, ge=0, description="Draws problems, wording, inputs, styles and faults.")

    @model_validator(mode="after")
    def _some_level(self) -> ProblemSection:
        for name in ("levels", "level_shares"):
            shares = getattr(self, name)
            if shares is not None and not sum(shares):
                raise ValueError(f"{name} are all 0; give at least one level a share")
        return self


def iterate_problems(config: ProblemSection) -> Iterator[Problem]:
    """Return the different problems of all splits, as they are drawn; no program is run.

    With `levels` these take turns, so that any beginning holds them in their shares. Without, the
    pipelines come by their number of operations.
    """
    shares = config.level_shares if config.levels is None else config.levels
    scale = config.num_problems / sum(shares)
    wanted = [round(share * scale) for share in shares]
    streams = [_of_level(config, level, n) for level, n in enumerate(wanted, start=1)]
    if config.levels is None:
        return chain.from_iterable(streams)
    turns = heapq.merge(*map(_placed, streams, wanted), key=lambda placed: placed[0])
    return (problem for _, problem in turns)


def _placed(problems: Iterator[Problem], number: int) -> Iterator[tuple[float, Problem]]:
    """Yield `number` problems with places that are spread evenly from 0 to 1."""
    for m, problem in enumerate(problems):
        yield (m + 0.5) / number, problem


def _of_level(config: ProblemSection, level: int, wanted: int) -> Iterator[Problem]:
    """Yield `wanted` different problems of one level."""
    name = level if config.levels is None else f"level {level}"
    rng = random.Random(f"minicode/{config.seed}/{name}")
    keys: set[str] = set()
    for _ in range(1000 + 20 * config.num_problems):
        if len(keys) >= wanted:
            return
        problem = _draw(config, level, rng)
        if problem is not None and problem.key not in keys:
            keys.add(problem.key)
            yield problem
    raise DataError(
        f"minicode: found only {len(keys)} different problems of level {level}, {wanted} are asked "
        "for. Lower num_problems or the share of this level in "
        f"{'level_shares' if config.levels is None else 'levels'}."
    )


def make_problems(config: ProblemSection) -> list[Problem]:
    """Return the problems of all splits, level by level; no program is run."""
    return list(iterate_problems(config))


def _draw(config: ProblemSection, level: int, rng: random.Random) -> Problem | None:
    if config.levels is None:
        return _draw_pipeline(config, level, level, rng)
    if level == PIPELINE_LEVEL:
        lengths = range(1, len(config.level_shares) + 1)
        length = rng.choices(lengths, config.level_shares)[0]
        return _draw_pipeline(config, length, level, rng)
    kind = rng.choice(kinds(config.largest_constant)[level])
    return make_filled(kind, fill(kind, rng), config.seed)


def _draw_pipeline(
    config: ProblemSection, length: int, level: int, rng: random.Random
) -> Pipeline | None:
    is_text = rng.random() < config.text_share
    domain = text() if is_text else numbers(config.largest_constant)
    return make_pipeline(domain, compose(domain, length, rng), config.seed, level)


def solutions(problem: Problem, number: int, styles: tuple[Style, ...] = STYLES) -> list[str]:
    """Return up to `number` different function bodies; `styles` are those of pipelines."""
    if isinstance(problem, Filled):
        return problem.solutions(number)
    assert isinstance(problem, Pipeline)
    return pipeline_solutions(problem, number, styles)
