"""Writes synthetic run folders with the layout and the texture of real ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

TOKENS = ["def", " clamp", "(x", ", low", ", high", "):", "\n    ", "if", " x", " <", " low", ":",
          "\n        ", "return", " low", "\n    ", "if", " x", " >", " high", ":", "\n        ",
          "return", " high", "\n    ", "return", " x", "\n"]  # fmt: skip
SKILL = {"mtp-baseline": 0.46, "critic-wmtp": 0.5, "rho1-wmtp": 0.49, "shuffled": 0.45}
LOSS = {"mtp-baseline": 0.52, "critic-wmtp": 0.53, "rho1-wmtp": 0.50, "shuffled": 0.54}
NUM_HEADS = 4

RunWriter = Callable[..., Path]


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def interval(passed: np.ndarray) -> dict[str, float]:
    value, n = float(passed.mean()), len(passed)
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def recipe_of(algorithm: str, seed: int) -> dict[str, Any]:
    section: dict[str, Any] = {"name": algorithm}
    if algorithm == "shuffled":
        section["of"] = {"name": "rho1-wmtp", "keep": 0.6}
    return {
        "name": f"{algorithm}-seed{seed}",
        "seed": seed,
        "algorithm": section,
        "data": {"source": "minicode", "max_length": 128},
        "optimization": {"learning_rate": 3e-3, "global_batch": 48, "steps": 300},
    }


def metrics_of(algorithm: str, tokens: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    final = LOSS.get(algorithm, 0.52) + 0.01 * rng.normal()
    for step in range(10, 301, 10):
        done = step / 300
        event: dict[str, Any] = {"step": step, "tokens": int(tokens * done), "seconds": step * 0.9}
        event["train/tokens_per_second"] = 3500 + 200 * rng.normal()
        event["train/loss"] = 4 * (final + 2.2 * math.exp(-5 * done))
        if algorithm == "critic-wmtp":
            event["train/phase"] = "value" if step <= 50 else "policy"
            event["eval/value/auc"] = 0.5 + 0.3 * (1 - math.exp(-6 * done))
            event["train/value/explained_variance"] = 0.35 * (1 - math.exp(-5 * done)) - 0.02
        for head in range(NUM_HEADS):
            uniform = algorithm == "mtp-baseline"
            event[f"train/weight/effective_sample_size/head_{head}"] = (
                1.0 if uniform else 0.62 + 0.05 * head + 0.02 * rng.normal()
            )
            event[f"train/weight/max/head_{head}"] = 1.0 if uniform else 1.7 + rng.random()
            event[f"train/weight/zero_share/head_{head}"] = (
                0.4 if algorithm in ("rho1-wmtp", "shuffled") and head else 0.0
            )
            if step % 30 == 0:
                ce = final + 0.35 * head + 2.2 * math.exp(-5 * done)
                event[f"eval/ce/head_{head}"] = ce
                event[f"eval/accuracy/head_{head}"] = math.exp(-ce)
        if step % 30 == 0:
            event["eval/bits_per_byte"] = event["eval/ce/head_0"] / math.log(2) / 2.1
        events.append(event)
    return events


def weights_of(algorithm: str, rng: np.random.Generator) -> dict[str, Any]:
    samples = []
    for index in range(4):
        wrong = index % 2
        tokens = list(TOKENS)
        fault = [False] * len(tokens)
        if wrong:
            tokens[9], fault[9] = " >", True
        weights: list[list[float | None]] = []
        for position in range(len(tokens)):
            if algorithm == "mtp-baseline":
                row: list[float | None] = [1.0] * NUM_HEADS
            elif algorithm == "critic-wmtp":
                row = [float(np.clip(np.exp(0.7 * rng.normal()), 0.1, 5)) for _ in range(NUM_HEADS)]
            else:
                row = [1 / 0.6 if rng.random() < 0.6 else 0.0 for _ in range(NUM_HEADS)]
            weights.append([w if position >= k - 2 else None for k, w in enumerate(row)])
        samples.append(
            {
                "task_id": f"minicode/{index}", "reward": 1 - wrong,
                "prompt": "# Clamp x to the range from low to high.\n",
                "tokens": tokens, "weights": weights, "fault": fault,
            }
        )  # fmt: skip
    return {"samples": samples}


def write_evaluation(folder: Path, passed: np.ndarray, completion: str, detail: str) -> None:
    outcomes, samples = [], []
    for task, right in enumerate(passed):
        kind = "passed" if right else ("timeout" if task % 17 == 0 else "failed")
        identity = {"task_id": f"minicode/{task}", "sample_id": 0}
        outcomes.append(
            {**identity, "outcome": kind, "seconds": 0.1, "detail": "" if right else detail}
        )
        samples.append({**identity, "prompt": "# Clamp x.\n", "completion": completion})
    kinds = [outcome["outcome"] for outcome in outcomes]
    write_lines(folder / "outcomes.jsonl", outcomes)
    write_lines(folder / "samples.jsonl", samples)
    levels = np.arange(len(passed)) % 3 + 1
    write_json(
        folder / "report.json",
        {
            "settings": {"protocol": "greedy", "benchmark": "minicode"},
            "provenance": {"versions": {"wmtp": "0.1.0"}},
            "metrics": {"pass@1": interval(passed)},
            "outcomes": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
            "by_difficulty": {str(k): interval(passed[levels == k]) for k in (1, 2, 3)},
            "sandbox": "namespaces",
        },
    )


def run_writer(root: Path) -> RunWriter:
    """Return a function that writes one run folder below `root` and returns its path."""

    def write(
        algorithm: str = "mtp-baseline",
        seed: int = 0,
        *,
        name: str | None = None,
        tokens: int = 1_250_000,
        passed: np.ndarray | None = None,
        num_tasks: int = 120,
        completion: str = "def clamp(x, low, high):\n    return max(low, min(x, high))\n",
        detail: str = "AssertionError: clamp(5, 1, 3) gave 5",
        only_summary: bool = False,
    ) -> Path:
        folder = root / "runs" / (name or f"{algorithm}-seed{seed}")
        rng = np.random.default_rng([seed, *algorithm.encode()])
        extra = {"critic-wmtp": {"critic": 4e12}, "rho1-wmtp": {"reference": 9e12}}
        extra_flops = extra.get(algorithm, {})
        write_json(
            folder / "run.json",
            {
                "name": folder.name, "algorithm": algorithm, "seed": seed, "status": "complete",
                "steps": 300, "tokens": tokens, "flops": 3.1e13 + sum(extra_flops.values()),
                "extra_flops": extra_flops, "seconds": 271.0, "peak_memory_bytes": 1_400_000_000,
                "num_parameters": 2_200_000, "num_heads": NUM_HEADS,
            },
        )  # fmt: skip
        if only_summary:
            return folder
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(algorithm, seed)))
        (folder / "environment.yaml").write_text("name: local\ndevice: cpu\n")
        write_json(folder / "provenance.json", {"versions": {"wmtp": "0.1.0"}, "commit": "abc"})
        write_lines(folder / "metrics.jsonl", metrics_of(algorithm, tokens, rng))
        write_json(folder / "weights.json", weights_of(algorithm, rng))
        if passed is None:
            passed = rng.random(num_tasks) < SKILL.get(algorithm, 0.4)
        write_evaluation(folder / "evaluation" / "minicode", passed, completion, detail)
        return folder

    return write


@pytest.fixture
def write_run(tmp_path: Path) -> RunWriter:
    return run_writer(tmp_path)
