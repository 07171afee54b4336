"""The commands that measure models: eval, judge, lm-eval and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wmtp.cli_options import (
    EnvironmentFile,
    EnvironmentSettings,
    Output,
    RecipeSettings,
    SandboxMode,
    sandbox_settings,
)
from wmtp.display import terminal_display as _display

Data = Annotated[str | None, typer.Option(metavar="PATH", help="The benchmark's file.")]
ProtocolName = Annotated[str | None, typer.Option("--protocol", help="Named sampling settings.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Default: all cores.")]


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Run folder, or a folder with a model.")],
    benchmark: Annotated[str | None, typer.Option(help="Default: that of the recipe.")] = None,
    data: Data = None,
    protocol: ProtocolName = None,
    settings: RecipeSettings = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seeds the sampling.")] = 0,
    env: EnvironmentFile = None,
    set_env: EnvironmentSettings = None,
    sandbox: SandboxMode = None,
    output: Output = None,
) -> None:
    """Draw completions, judge them in the sandbox, and write a report; resumes.

    --set overrides settings of the recipe's evaluation section, such as limit=50.
    """
    from wmtp.config.load import load_environment
    from wmtp.pipeline.benchmark import evaluation_document
    from wmtp.pipeline.evaluate import evaluate, write_page

    document = evaluation_document(checkpoint, benchmark, data, protocol, settings or [])
    environment = load_environment(env, [*(set_env or []), *sandbox_settings(sandbox)])
    folder = evaluate(
        checkpoint, document, environment, seed=seed, output=output, display=_display()
    )
    typer.echo(_metrics_table(folder))
    typer.echo(f"report: {write_page(checkpoint, folder)}")


def judge(
    samples: Annotated[
        Path, typer.Argument(help="JSONL (or .gz) of {task_id, completion} or {task_id, solution}.")
    ],
    benchmark: Annotated[str, typer.Option(help="Whose tests decide.")],
    data: Data = None,
    settings: RecipeSettings = None,
    k: Annotated[
        list[int] | None, typer.Option(help="Report pass@k; repeatable. Default: 1, 10, 100.")
    ] = None,
    workers: Workers = None,
    sandbox: SandboxMode = None,
    output: Output = None,
) -> None:
    """Judge completions made anywhere; writes outcomes and a report; resumes."""
    from wmtp.config.load import load_environment
    from wmtp.pipeline.benchmark import evaluation_document
    from wmtp.pipeline.judge import judge_samples

    document = evaluation_document(None, benchmark, data, None, settings or [])
    folder = output or samples.with_suffix(".judged")
    judge_samples(
        samples,
        document,
        load_environment(None, sandbox_settings(sandbox, workers)),
        output=folder,
        ks=tuple(k or ()),
        display=_display(),
    )
    typer.echo(_metrics_table(folder))
    typer.echo(f"report: {folder / 'report.html'}")


def lm_eval(
    benchmark: Annotated[str, typer.Option(help="Whose tasks.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the task files go.")],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Run or model folder whose template and start token prompts have."),
    ] = None,
    data: Data = None,
    protocol: ProtocolName = None,
    settings: RecipeSettings = None,
    workers: Workers = None,
    sandbox: SandboxMode = None,
) -> None:
    """Write tasks for lm_eval: our prompts, protocol and sandbox, on any model that it loads."""
    from wmtp.config.load import load_environment
    from wmtp.pipeline.benchmark import evaluation_document
    from wmtp.pipeline.lm_eval import write_lm_eval_tasks

    document = evaluation_document(checkpoint, benchmark, data, protocol, settings or [])
    environment = load_environment(None, sandbox_settings(sandbox, workers))
    names = write_lm_eval_tasks(document, environment, output, checkpoint)
    typer.echo(f"lm_eval --model hf --include_path {output} --tasks {','.join(names)}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or two folders of evaluations.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path(),
    title: Annotated[str, typer.Option(help="Heads the report.")] = "Comparison of runs",
) -> None:
    """Compare runs in one self-contained HTML page and a JSON file.

    Two folders with outcomes.jsonl are compared task by task, the first minus the second.
    """
    from wmtp.outputs import atomic_write_json
    from wmtp.report.page import write_report
    from wmtp.report.paired import compare_evaluations, is_evaluation

    if len(runs) == 2 and all(is_evaluation(run) for run in runs):
        found = compare_evaluations(runs[0], runs[1])
        atomic_write_json(
            output / "paired.json", {"folders": list(map(str, runs)), **found.as_json()}
        )
        typer.echo("\n".join(found.lines()))
        typer.echo(f"report: {output / 'paired.json'}")
        return
    typer.echo(f"report: {write_report(runs, output, title=title)}")


def _metrics_table(folder: Path) -> str:
    """Return the metrics of a report as lines for people."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    width = max(12, *map(len, report["metrics"]))
    lines = [
        f"  {name:<{width}} {m['value']:.4f}  [{m['low']:.4f}, {m['high']:.4f}]  n = {m['n']}"
        for name, m in report["metrics"].items()
    ]
    if "outcomes" in report:  # a held-out loss has none
        counts = sorted(report["outcomes"].items())
        lines.append(f"  outcomes     {', '.join(f'{count} {name}' for name, count in counts)}")
        lines.append(f"  sandbox      {report['sandbox']}")
    return "\n".join(lines)
