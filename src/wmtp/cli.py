"""The command line: thin commands, with everything heavy imported inside them.

A command raises `WmtpError` for what the user can fix (printed alone, exit 2); bugs keep their
traceback (exit 1); Ctrl-C exits 130.
"""

from __future__ import annotations

import errno
import io
import json
import sys
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wmtp import cli_data, cli_evaluation
from wmtp.cli_options import AsJson, EnvironmentFile, EnvironmentSettings, Output, RecipeSettings
from wmtp.display import terminal_display as _display
from wmtp.errors import ConfigError, WmtpError


class _Commands(TyperGroup):
    """Turns what a command raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            _require_utf8(ctx.args)
            return super().invoke(ctx)
        except WmtpError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo(
                "Interrupted. The same command goes on from there (`wmtp data build` begins again); "
                "`wmtp train` and `wmtp data mutate` need --resume.",
                err=True,
            )
            raise typer.Exit(130) from None


def _require_utf8(arguments: list[str]) -> None:
    """Refuse what libraries below (tokenizers, MLflow) take for no path and no text."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise ConfigError(f"{argument!r}: not UTF-8. Rename that file or folder, or retype it.")


app = typer.Typer(
    cls=_Commands,
    help="Weighted multi-token prediction: train with a weight per token and head, and compare.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # its tracebacks print local variables
)
app.add_typer(cli_data.app, name="data")


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Recipes and environments.")],
) -> None:
    """Check settings files, with the options of what they name."""
    from wmtp.config.check import check_file

    problems = []
    for file in files:
        try:
            typer.echo(f"{file}: {check_file(file)}, no mistakes found")
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


@app.command("list")
def list_names(as_json: AsJson = False) -> None:
    """List algorithms, data sources, benchmarks, and the recipes in ./recipes."""
    from wmtp.inventory import inventory

    entries = inventory()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    width = max(len(entry.name) for entry in entries)
    for kind, group in groupby(entries, key=lambda entry: entry.kind):
        typer.echo(f"{kind}:")
        for entry in group:
            origin = "" if entry.origin == "built-in" else f" ({entry.origin})"
            typer.echo(f"  {entry.name:<{width}}  {entry.summary}{origin}")


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="recipe, environment, or a listed name.")] = "recipe",
) -> None:
    """Print the JSON Schema of settings, for editors and scripts."""
    from wmtp.config.schema import schema

    typer.echo(json.dumps(schema(name), indent=2))


@app.command()
def doctor(
    env: EnvironmentFile = None, set_env: EnvironmentSettings = None, as_json: AsJson = False
) -> None:
    """Show what works on this machine and how to mend what does not."""
    from wmtp.config.load import load_environment
    from wmtp.doctor import examine

    findings = []
    for finding in examine(load_environment(env, set_env or [])):
        findings.append(finding)
        if not as_json:
            fix = f"\n{'':20}{finding.fix}" if finding.fix else ""
            typer.echo(f"{finding.status:<8} {finding.name:<10} {finding.detail}{fix}")
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(2)


@app.command()
def quickstart(
    full: Annotated[bool, typer.Option("--full", help="More seeds and steps; hours.")] = False,
    env: EnvironmentFile = None,
    set_env: EnvironmentSettings = None,
) -> None:
    """Run the whole story on the embedded benchmark; the same command resumes."""
    from wmtp.config.load import load_environment
    from wmtp.pipeline.quickstart import quickstart

    quickstart(load_environment(env, set_env or []), full=full, display=_display())


@app.command()
def experiment(
    suite: Annotated[Path, typer.Argument(help="Suite file: a recipe, its arms and seeds.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override, such as recipe.optimization.steps=100."
        ),
    ] = None,
    env: EnvironmentFile = None,
    set_env: EnvironmentSettings = None,
) -> None:
    """Train and evaluate every arm and seed under one budget, and compare; the same command resumes."""
    from wmtp.config.check import checked_suite
    from wmtp.config.load import load_document, load_environment
    from wmtp.pipeline.quickstart import run_suite

    chosen = checked_suite(load_document(suite, settings or []))
    run_suite(chosen, load_environment(env, set_env or []), _display())


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file: what to learn.")],
    settings: RecipeSettings = None,
    env: EnvironmentFile = None,
    set_env: EnvironmentSettings = None,
    output: Output = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run there.")] = False,
) -> None:
    """Train a recipe; writes a run folder."""
    from wmtp.config.load import load_document, load_environment
    from wmtp.pipeline.train import train

    document = load_document(recipe, settings or [])
    environment = load_environment(env, set_env or [])
    run = train(document, environment, output=output, resume=resume, display=_display())
    typer.echo(f"run: {run.path}")


app.command("eval")(cli_evaluation.evaluate)
app.command()(cli_evaluation.judge)
app.command("lm-eval")(cli_evaluation.lm_eval)
app.command()(cli_evaluation.compare)


@app.command()
def audit(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Examples with fault_spans: .jsonl or .parquet."),
    ] = None,
    source: cli_data.SourceName = None,
    settings: cli_data.SourceSettings = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="One split, or all.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many programs, spread.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=4, help="Tokens; default: the recipe's data.max_length.")
    ] = None,
    end_token: Annotated[
        bool, typer.Option("--end-token", help="Score the token after the text too.")
    ] = False,
    env: EnvironmentFile = None,
    set_env: EnvironmentSettings = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Score token weights against known faults: do the weights point at the truth?

    Without --data and --source, the faulty programs come from the data source of the first run's recipe.
    """
    from wmtp.config.load import load_environment
    from wmtp.pipeline.audit import Faulty, audit
    from wmtp.report.audit import audit_table

    faulty = Faulty(data, source, tuple(settings or []), split, limit, max_length, end_token)
    environment = load_environment(env, set_env or [])
    folder = audit(runs, faulty, environment, output=output, display=_display())
    record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    typer.echo(audit_table(record))
    typer.echo(f"audit: {folder / 'audit.html'}")


@app.command()
def convert(
    layout: Annotated[str, typer.Argument(help="Layout of OUTPUT: meta, hf or native.")],
    source: Annotated[Path, typer.Argument(help="Run or model folder, in any layout.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    num_heads: Annotated[
        int | None,
        typer.Option(help="Heads of a plain transformers SOURCE; new ones are copies of head 0."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a model: to Meta's layout, plain transformers (hf), or all heads (native)."""
    from wmtp.pipeline.convert import convert

    done = convert(layout, source, output, num_heads=num_heads)
    if as_json:
        typer.echo(json.dumps(asdict(done), indent=2))
        return
    for notice in done.notices:
        typer.echo(f"note: {notice}", err=True)
    kinds = f"{done.source_layout} to {done.layout}"
    typer.echo(f"model: {done.output} ({kinds}, heads: {done.num_heads})")


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for paths that are not UTF-8
    try:
        app(prog_name="wmtp")
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        typer.echo(
            "Cannot write: the disk, or what standard output goes to, is full. Free some space.",
            err=True,
        )
        sys.exit(2)
