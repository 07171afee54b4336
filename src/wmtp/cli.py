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

from wmtp import cli_data
from wmtp.display import terminal_display as _display
from wmtp.errors import ConfigError, WmtpError

EnvironmentFile = Annotated[
    Path | None, typer.Option("--env", metavar="FILE", help="Environment file: where to run.")
]
EnvironmentSettings = Annotated[
    list[str] | None,
    typer.Option("--set-env", metavar="KEY=VALUE", help="Override one setting of the environment."),
]
RecipeSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting of the recipe."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


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


Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Where to write; has a default.")
]


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


@app.command("eval")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Run folder, or a folder with a model.")],
    benchmark: Annotated[str | None, typer.Option(help="Default: that of the recipe.")] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The benchmark's file.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Named sampling settings.")] = None,
    settings: RecipeSettings = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seeds the sampling.")] = 0,
    env: EnvironmentFile = None,
    set_env: EnvironmentSettings = None,
    output: Output = None,
) -> None:
    """Draw completions, judge them in the sandbox, and write a report; resumes.

    --set overrides settings of the recipe's evaluation section, such as limit=50.
    """
    from wmtp.config.load import load_environment
    from wmtp.pipeline.evaluate import evaluate, evaluation_document, write_page

    document = evaluation_document(checkpoint, benchmark, data, protocol, settings or [])
    environment = load_environment(env, set_env or [])
    folder = evaluate(
        checkpoint, document, environment, seed=seed, output=output, display=_display()
    )
    typer.echo(_metrics_table(folder))
    page = write_page(checkpoint)
    typer.echo(f"report: {page or folder / 'report.json'}")


@app.command()
def judge(
    samples: Annotated[Path, typer.Argument(help="JSONL of {task_id, completion}.")],
    benchmark: Annotated[str, typer.Option(help="Whose tests decide.")],
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The benchmark's file.")] = None,
    settings: RecipeSettings = None,
    workers: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    sandbox: Annotated[
        str, typer.Option(help="auto, or limits-only to accept weaker isolation.")
    ] = "auto",
    output: Output = None,
) -> None:
    """Judge completions made anywhere; writes outcomes and a report; resumes."""
    from wmtp.config.load import load_environment
    from wmtp.pipeline.evaluate import evaluation_document, judge_samples

    document = evaluation_document(None, benchmark, data, None, settings or [])
    chosen = [f"sandbox.mode={sandbox}"]
    chosen += [] if workers is None else [f"sandbox.workers={workers}"]
    folder = output or samples.with_suffix(".judged")
    judge_samples(
        samples, document, load_environment(None, chosen), output=folder, display=_display()
    )
    typer.echo(_metrics_table(folder))
    typer.echo(f"report: {folder / 'report.json'}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path(),
    title: Annotated[str, typer.Option(help="Heads the report.")] = "Comparison of runs",
) -> None:
    """Compare runs in one self-contained HTML page and a JSON file."""
    from wmtp.report.page import write_report

    typer.echo(f"report: {write_report(runs, output, title=title)}")


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


def _metrics_table(folder: Path) -> str:
    """Return the metrics of a report as lines for people."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = [
        f"  {name:<12} {m['value']:.4f}  [{m['low']:.4f}, {m['high']:.4f}]  n = {m['n']}"
        for name, m in report["metrics"].items()
    ]
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(report["outcomes"].items()))
    return "\n".join([*lines, f"  outcomes     {outcomes}", f"  sandbox      {report['sandbox']}"])


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
