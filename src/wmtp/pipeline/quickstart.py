"""The whole story on the embedded benchmark: data, reference, arms, evaluation, report."""

from __future__ import annotations

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from wmtp.config.environment import Environment
from wmtp.config.load import Document, load_document
from wmtp.config.recipe import EvaluationSection, Recipe
from wmtp.config.suite import Suite, variant
from wmtp.display import Display
from wmtp.pipeline.evaluate import evaluate
from wmtp.pipeline.train import train
from wmtp.registry import BENCHMARKS
from wmtp.report.page import write_report
from wmtp.run_folder import RunFolder
from wmtp.sandbox import Sandbox


def quickstart(
    environment: Environment, *, full: bool = False, display: Display | None = None
) -> Path:
    """Run the embedded suite, or the rest of it after an interruption; return the report's path.

    `full` is the larger suite: more seeds and steps.
    """
    name = "quickstart-full" if full else "quickstart"
    with as_file(files("wmtp") / "recipes" / f"{name}.yaml") as path:
        suite = load_document(path).validate(Suite)
    return run_suite(suite, environment, display)


def run_suite(suite: Suite, environment: Environment, display: Display | None = None) -> Path:
    """Train the reference and every arm and seed, evaluate the arms, and write the report."""
    display = display or Display()
    started = time.monotonic()
    benchmark = suite.recipe.get("evaluation", {}).get("benchmark")
    if benchmark is not None and not BENCHMARKS.get(benchmark).compares_answers:
        Sandbox(environment.sandbox.mode)  # refuses now what it would refuse after training
    root = Path(environment.output_root) / suite.name
    where = environment.model_copy(update={"output_root": str(root)})
    reference = train(
        variant(suite, f"{suite.name}, reference", {"name": "reference"}, suite.reference),
        where,
        resume=True,
        display=display,
    )
    runs: list[Path] = []
    total = len(suite.seeds) * len(suite.arms)
    for seed in suite.seeds:
        for arm in suite.arms:
            display.say(f"run {len(runs) + 1} of {total}")
            document = _arm(suite, arm, seed, reference)
            run = train(document, where, resume=True, display=display)
            _evaluate(run, document, where, display)
            runs.append(run.path)
    report = write_report(runs, root, title=suite.title)
    display.say(f"report: {report} (after {time.monotonic() - started:.0f} s)")
    return report


def _arm(suite: Suite, arm: str, seed: int, reference: RunFolder) -> Document:
    """Return the recipe of one arm and seed; it takes tokenizer and reference from the latter's run."""
    name = arm if len(suite.seeds) == 1 else f"{arm}-seed-{seed}"
    tokenizer = {"pretrained": str(reference.model), "vocab_size": None}
    own: dict[str, Any] = {"name": name, "seed": seed, "tokenizer": tokenizer}
    document = variant(suite, f"{suite.name}, arm {arm}", suite.arms[arm], own)
    _fill_reference(document.data["algorithm"], str(reference.model))
    return document


def _fill_reference(algorithm: dict[str, Any], path: str) -> None:
    """Put the path of the suite's reference where an algorithm asks for `suite`'s."""
    if algorithm.get("reference") == "suite":
        algorithm["reference"] = path
    for name in ("of", "first", "second"):
        if isinstance(algorithm.get(name), dict):
            _fill_reference(algorithm[name], path)


def _evaluate(
    run: RunFolder, document: Document, environment: Environment, display: Display
) -> None:
    recipe = document.validate(Recipe)
    if recipe.evaluation.benchmark is None:
        return
    if (run.evaluation(recipe.evaluation.benchmark) / "report.json").is_file():
        return
    keep = set(EvaluationSection.model_fields) | set(recipe.evaluation.options)
    settings = {k: v for k, v in document.data["evaluation"].items() if k in keep}
    evaluate(run.path, Document("evaluation", settings), environment, display=display)
