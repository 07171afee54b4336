"""The commands `wmtp data`: build, mutate and inspect examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wmtp.cli_options import AsJson
from wmtp.display import terminal_display
from wmtp.errors import ConfigError

app = typer.Typer(
    help="Build, mutate and inspect examples.", no_args_is_help=True, rich_markup_mode=None
)

SourceSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the source, such as path=FILE."),
]
SourceName = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="Registered source; `wmtp list` shows all."),
]
Split = Annotated[str, typer.Option(metavar="NAME", help="One split, or all.")]
NewFile = Annotated[
    Path, typer.Option("--output", metavar="FILE", help="A new .jsonl or .parquet file.")
]
MOST_VALUES = 12  # of one field, that are listed one by one


@app.command()
def build(
    source: Annotated[str, typer.Argument(help="Registered source; `wmtp list` shows all.")],
    output: NewFile,
    settings: SourceSettings = None,
    split: Split = "all",
    limit: Annotated[int | None, typer.Option(min=1, help="Write at most this many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the examples of a source to a file."""
    from wmtp.pipeline.examples import build, open_source

    counts = build(open_source(source, settings or []), split, output, limit=limit)
    if as_json:
        typer.echo(json.dumps(counts, indent=2))
        return
    for field in ("split", "reward", "difficulty"):
        typer.echo(f"  {field:<10}  {_listed(counts[field])}")
    for notice in counts["notices"]:
        typer.echo(f"  note        {notice}")
    typer.echo(f"examples: {output} ({counts['examples']})")


def _listed(counts: dict[str, int]) -> str:
    """Return "value: count, ..."; of many numbers their range."""
    if len(counts) <= MOST_VALUES:
        return ", ".join(f"{value}: {count}" for value, count in counts.items())
    unknown = counts.get("unknown", 0)
    numbers = sorted(float(value) for value in counts if value != "unknown")
    rest = f", unknown: {unknown}" if unknown else ""
    known = sum(counts.values()) - unknown
    return f"{numbers[0]:g} to {numbers[-1]:g}, {len(numbers)} values: {known}{rest}"


@app.command()
def mutate(
    output: NewFile,
    file: Annotated[
        Path | None, typer.Argument(metavar="[INPUT]", help="Examples: .jsonl or .parquet.")
    ] = None,
    source: SourceName = None,
    settings: SourceSettings = None,
    split: Split = "all",
    per_example: Annotated[
        int, typer.Option(min=1, metavar="N", help="Failing mutants per correct example.")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Draws the faults.")] = 0,
    cpu_seconds: Annotated[
        float, typer.Option(min=0.1, help="CPU time of a program; three times as much waiting.")
    ] = 5.0,
    timeouts: Annotated[
        str, typer.Option(metavar="drop|keep", help="Mutants that run over a limit.")
    ] = "drop",
    keep_equivalent: Annotated[
        bool, typer.Option("--keep-equivalent", help="Also write mutants that pass, reward 1.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    sandbox: Annotated[
        str, typer.Option(help="auto, or limits-only to accept weaker isolation.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a break.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add incorrect solutions: mutants of correct ones that fail their tests when they are run."""
    from wmtp.data.verified_mutants import Outcome, Search
    from wmtp.pipeline.examples import named_examples
    from wmtp.pipeline.mutate import Mutation, mutate
    from wmtp.sandbox import Limits, Sandbox

    count_timeouts = _choice("--timeouts", timeouts, "drop", "keep") == "keep"
    mode: Any = _choice("--sandbox", sandbox, "auto", "limits-only")
    keep: set[Outcome] = {"failed"}
    keep |= {"timeout"} if count_timeouts else set()
    keep |= {"equivalent"} if keep_equivalent else set()
    limits = Limits(cpu_seconds=cpu_seconds, wall_seconds=3 * cpu_seconds)
    chosen = Mutation(Search(per_example, seed, limits, count_timeouts), frozenset(keep))
    examples = list(named_examples(file, source, settings or [], split))
    with Sandbox(mode, workers) as isolation:
        counts = mutate(
            examples, output, chosen, isolation, resume=resume, display=terminal_display()
        )
    typer.echo(json.dumps(counts, indent=2) if as_json else _mutation_table(counts))


@app.command()
def inspect(
    file: Annotated[
        Path | None, typer.Argument(metavar="[INPUT]", help="Examples: .jsonl or .parquet.")
    ] = None,
    source: SourceName = None,
    settings: SourceSettings = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One split, or all; default: the recipe's, or all."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder or hub id of a tokenizer.")
    ] = None,
    as_bytes: Annotated[bool, typer.Option("--bytes", help="One token per byte.")] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Tokenizer, lengths, heads and default data of a recipe."
        ),
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Default: the recipe's, or 4.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=4, help="Tokens; default: the recipe's, or no limit.")
    ] = None,
    index: Annotated[int | None, typer.Option(min=0, help="Which example; default: 0.")] = None,
    task_id: Annotated[str | None, typer.Option(help="The first example of this problem.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write what is shown to a page.")
    ] = None,
) -> None:
    """Show an example as the model sees it, and statistics of all."""
    from wmtp.pipeline.inspect import Choice, inspect

    choice = Choice(
        file=file,
        source=source,
        settings=tuple(settings or []),
        split=split,
        tokenizer=tokenizer,
        as_bytes=as_bytes,
        recipe=recipe,
        num_heads=num_heads,
        max_length=max_length,
        index=index,
        task_id=task_id,
    )
    inspect(choice, html)


def _choice(option: str, given: str, *known: str) -> str:
    if given not in known:
        raise ConfigError(f"{option} {given}: expected {' or '.join(known)}.")
    return given


def _mutation_table(counts: dict[str, Any]) -> str:
    """Return the statistics as lines for people."""
    columns = ("made", "failed", "equivalent", "timeout", "error")
    lines = [f"  {'operator':<18}" + "".join(f"{column:>11}" for column in columns)]
    rows = counts["operators"]
    total = {column: sum(row[column] for row in rows.values()) for column in columns}
    for name, row in [*rows.items(), ("all", total)]:
        lines.append(f"  {name:<18}" + "".join(f"{row[column]:>11}" for column in columns))
    failures = ", ".join(f"{name} {count}" for name, count in counts["failures"].items())
    written = ", ".join(f"{count} {name}" for name, count in counts["written"].items() if count)
    lines.append(f"  how they failed: {failures}")
    for entry in counts["skipped"][:10]:
        lines.append(f"  left out: {entry['task_id']}, its own solution: {entry['reason']}")
    if len(counts["skipped"]) > 10:
        lines.append(f"  left out: {len(counts['skipped']) - 10} more; --json names them")
    if counts["without_mutant"]:
        lines.append(f"  correct examples without a failing mutant: {counts['without_mutant']}")
    if counts["repeated"]:
        lines.append(f"  examples that repeat another, not written: {counts['repeated']}")
    if counts["duplicates"]:
        lines.append(f"  mutants that were there already, not written: {counts['duplicates']}")
    return "\n".join([*lines, f"examples: {counts['output']} ({written})"])
