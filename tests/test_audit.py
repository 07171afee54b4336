"""The audit: scores against slow definitions, and whole audits of runs whose answer is known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from wmtp.cli import app
from wmtp.config.environment import Environment
from wmtp.config.load import Document
from wmtp.data.encode import Encoded
from wmtp.data.example import Example
from wmtp.data.seen import SeenProblems
from wmtp.data.sources.jsonl import write_examples
from wmtp.errors import CheckpointError, ConfigError, DataError
from wmtp.evaluation.audit import (
    SCORES,
    Program,
    audit_scores,
    auroc,
    head_programs,
    precision,
    scores_by_head,
    top,
)
from wmtp.evaluation.metrics import Interval
from wmtp.losses import IGNORE_INDEX, horizon_labels
from wmtp.pipeline import audit as audit_module
from wmtp.pipeline.audit import Faulty, audit
from wmtp.pipeline.train import train
from wmtp.report.audit import AuditedRun
from wmtp.training.weight_samples import weigh_samples
from wmtp.weighting import align_to_heads, align_to_tokens

DEFAULT = Faulty()
QUIXBUGS = Path(__file__).parents[2] / "shared" / "data" / "quixbugs" / "quixbugs_dev.jsonl"


def program(weights: list[float], fault: str, task: str = "t") -> Program:
    return Program(task, np.array(weights, dtype=float), np.array([c == "x" for c in fault]))


def in_all_orders(of: Program, score: Any) -> float:
    """Return the mean of `score(faults in order of weight)` over all orders of equal weights."""
    n = len(of.weights)
    found = []
    for ties in permutations(range(n)):
        order = sorted(range(n), key=lambda i: (of.weights[i], ties[i]))
        found.append(score([bool(of.fault[i]) for i in order]))
    return float(np.mean(found))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    n = draw(st.integers(2, 6))
    weights = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    faults = draw(st.integers(1, n - 1))
    fault = draw(st.permutations([True] * faults + [False] * (n - faults)))
    return Program("t", np.array(weights, dtype=float), np.array(fault))


@given(programs(), st.integers(1, 7))
def test_scores_are_the_mean_over_all_orders_of_ties(of: Program, k: int) -> None:
    pairs = [
        (a < b) + (a == b) / 2
        for a in of.weights[of.fault]
        for b in of.weights[~of.fault]
    ]  # fmt: skip
    assert auroc(of) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert top(of, k) == pytest.approx(in_all_orders(of, lambda f: any(f[:k])), abs=1e-12)
    m = int(of.fault.sum())
    expected = in_all_orders(of, lambda f: sum(f[:m]) / m)
    assert precision(of) == pytest.approx(expected, abs=1e-12)


def test_scores_by_hand() -> None:
    # Of 2 x 3 pairs the fault of weight 0.1 wins 2 and ties with one; that of 0.5 wins one.
    of = program([0.1, 0.5, 0.1, 0.4, 0.9], "xx...")
    assert auroc(of) == pytest.approx((2.5 + 1) / 6)
    assert (top(of, 1), top(of, 2), top(of, 5), top(of, 99)) == (0.5, 1.0, 1.0, 1.0)
    assert precision(of) == 0.5
    best = program([0.0, 1.0, 1.0, 1.0], "x...")
    worst = program([9.0, 1.0, 1.0, 1.0], "x...")
    assert [score(best) for score in SCORES.values()] == [1.0] * 4
    assert [score(worst) for score in SCORES.values()] == [0.0, 0.0, 1.0, 0.0]


def test_constant_weights_are_chance() -> None:
    flat = program([1.0] * 8, "xx......")
    assert (auroc(flat), top(flat, 1), precision(flat)) == (0.5, 0.25, 0.25)
    assert top(flat, 5) == pytest.approx(1 - (6 * 5 * 4 * 3 * 2) / (8 * 7 * 6 * 5 * 4))


def test_every_problem_counts_once() -> None:
    good, bad = [0.0, 1.0, 1.0], [2.0, 1.0, 1.0]
    found = audit_scores([program(good, "x..", "a")] * 3 + [program(bad, "x..", "b")])
    assert found["auroc"].value == 0.5
    assert found["auroc"].n == 2
    assert found["auroc"].low == pytest.approx(0.0945, abs=1e-4)  # Wilson, 1 of 2


def test_scores_are_by_signal_and_head_and_leave_out_heads_without_both_kinds() -> None:
    one, other = program([0.0, 1.0], "x."), program([1.0, 0.0], "x.", "u")
    found = scores_by_head({"weights": [[one, None], [other, None]]})
    assert set(found) == {"weights/head_0", "chance/head_0"}
    assert found["weights/head_0"]["top_1"].value == 0.5


def test_a_shuffle_that_finds_faults_is_suspicious() -> None:
    def run(low: float) -> AuditedRun:
        scores = {"shuffled/head_0": {"auroc": Interval(0.6, low, 0.7, 9)}}
        return AuditedRun("run", "made", 0, 0, scores, {}, {}, {})

    assert run(0.49).suspicions == []
    (line,) = run(0.51).suspicions
    assert line.startswith("run: AUROC of shuffled/head_0 is 0.600, and its interval from 0.510")


@pytest.mark.parametrize(("length", "heads"), [(7, 3), (3, 4), (1, 2)])
def test_weights_come_back_to_their_tokens(length: int, heads: int) -> None:
    ids = torch.arange(2 * length).reshape(2, length)
    valid = horizon_labels(ids, heads) != IGNORE_INDEX
    signal = torch.rand(2, length)
    found = align_to_tokens(align_to_heads(signal, heads), valid)
    for head in range(heads):
        assert found[:, : head + 1, head].isnan().all()
        assert torch.equal(found[:, head + 1 :, head], signal[:, head + 1 :])


def test_the_end_token_and_tokens_without_a_target_are_left_out() -> None:
    item = Encoded(
        Example("t", "p", "abc"),
        input_ids=np.arange(6),
        completion=np.array([0, 0, 1, 1, 1, 1], dtype=bool),
        fault=np.array([0, 0, 0, 1, 0, 0], dtype=bool),
        num_bytes=3,
        num_tail=1,
    )
    values = np.array([[np.nan] * 2] * 2 + [[2, np.nan], [0, np.nan], [1, 1.0], [-5, -5]])
    first, second = head_programs(item, values)
    assert first is not None
    assert first.weights.tolist() == [2.0, 0.0, 1.0]
    assert first.fault.tolist() == [False, True, False]
    assert second is None
    first, _ = head_programs(item, values, end_token=True)
    assert first is not None
    assert first.weights.tolist() == [2.0, 0.0, 1.0, -5.0]
    lacks_its_end = replace(item, fault=np.array([0, 0, 0, 0, 0, 1], dtype=bool))
    assert head_programs(lacks_its_end, values) == [None, None]
    first, _ = head_programs(lacks_its_end, values, end_token=True)
    assert first is not None
    assert first.fault.tolist() == [False, False, False, True]


def example(i: int, split: str, wrong: bool) -> Example:
    prompt, tests = f"# Add {i} to x.\ndef f(x):\n", f"assert f(3) == {3 + i}"
    sign, spans = ("-", ((13, 14),)) if wrong else ("+", ())
    completion = f"    return x {sign} {i}"
    reward = 0.0 if wrong else 1.0
    return Example(f"t/{i}", prompt, completion, reward, tests, prompt, 1.0, "made", split, spans)


RECIPE: dict[str, Any] = {
    "model": {
        "num_heads": 2,
        "architecture": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_attention_heads": 4,
            "max_positions": 400,
        },
    },
    "tokenizer": {"vocab_size": 300},
    "optimization": {"learning_rate": 1e-2, "global_batch": 4, "steps": 6},
    "evaluation": {"held_out_points": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and runs of three schemes on them: reference (the baseline), critic and rho1."""
    folder = tmp_path_factory.mktemp("audit")
    splits = ["train"] * 24 + ["test"] * 12
    made = [example(i, split, wrong) for i, split in enumerate(splits) for wrong in (False, True)]
    write_examples(folder / "data.jsonl", made)
    data = {"source": "jsonl", "path": str(folder / "data.jsonl"), "max_length": 64}
    data |= {"incorrect_share": 0.5, "validation_split": None}
    shared = {"pretrained": str(folder / "reference" / "model"), "vocab_size": None}
    rho1 = {"name": "rho1-wmtp", "reference": str(folder / "reference")}
    for name, own in {
        "reference": {"algorithm": {"name": "mtp-baseline"}},
        "critic": {"algorithm": {"name": "critic-wmtp"}, "tokenizer": shared},
        "rho1": {"algorithm": {**rho1, "always_keep_head_0": False}, "tokenizer": shared},
    }.items():
        document = Document("recipe.yaml", {"name": name, **RECIPE, "data": data, **own})
        train(document, where(folder))
    return folder


def where(folder: Path) -> Environment:
    return Environment(output_root=str(folder), device="cpu", tracking={"enabled": False})


def audited(folder: Path, *names: str, faulty: Faulty = DEFAULT, **options: Any) -> dict[str, Any]:
    output = options.pop("output", folder / "audits" / "-".join(names))
    found = audit([folder / name for name in names], faulty, where(folder), output=output)
    return json.loads((found / "audit.json").read_text())


def test_uniform_weights_are_exactly_chance(folder: Path) -> None:
    record = audited(folder, "reference")
    assert record["programs"] == {
        "audited": 12,
        "without_known_fault": 12,
        "seen_in_training": 0,
    }
    found = record["runs"]["reference"]["metrics"]
    for head in ("head_0", "head_1"):
        assert found[f"weights/auroc/{head}"]["value"] == 0.5
        assert found[f"shuffled/auroc/{head}"]["value"] == 0.5
        for score in SCORES:
            assert found[f"weights/{score}/{head}"]["value"] == pytest.approx(
                found[f"chance/{score}/{head}"]["value"]
            )


def test_an_oracle_is_perfect_and_its_shuffle_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def oracle(model: Any, algorithm: Any, data: Any, chosen: Any, collate: Any) -> Any:
        batch, weights = weigh_samples(model, algorithm, data, chosen, collate)
        fault = torch.zeros_like(batch.completion)
        for row, sample in enumerate(chosen):
            fault[row, : len(data.items[sample])] = torch.from_numpy(data.items[sample].fault)
        return batch, weights * ~align_to_heads(fault, weights.shape[2])

    monkeypatch.setattr(audit_module, "weigh_samples", oracle)
    record = audited(folder, "reference", output=folder / "audits" / "oracle")
    found = record["runs"]["reference"]["metrics"]
    for head in ("head_0", "head_1"):
        for score in SCORES:
            assert found[f"weights/{score}/{head}"]["value"] == 1.0
        shuffled = found[f"shuffled/auroc/{head}"]
        assert shuffled["low"] < 0.75 < 1.0
        assert shuffled["value"] < 0.9


def test_runs_side_by_side_with_their_signals(folder: Path) -> None:
    record = audited(folder, "critic", "rho1")
    critic, rho1 = (record["runs"][name]["metrics"] for name in ("critic", "rho1"))
    signals = {name.split("/")[0] for name in critic}
    assert signals == {"weights", "advantage", "shuffled", "chance"}
    # Weights rise with the advantage, clipped: they order tokens alike.
    gap = critic["weights/auroc/head_0"]["value"] - critic["advantage/auroc/head_0"]["value"]
    assert abs(gap) < 0.1
    assert {name.split("/")[0] for name in rho1} == {"weights", "excess", "shuffled", "chance"}
    for m in critic.values():
        assert m["low"] <= m["value"] <= m["high"]
    page = (folder / "audits" / "critic-rho1" / "audit.html").read_text()
    assert "http" not in page.split("Settings and provenance")[0]
    assert 'class="' in page
    assert "fault" in page
    assert "rho1" in page


def test_the_state_of_the_algorithm_counts(folder: Path) -> None:
    state = json.loads((folder / "critic" / "algorithm.json").read_text())
    assert set(state) >= {"advantage", "weight"}
    assert min(state["advantage"]["weight"]) > 0


def test_problems_seen_in_training_are_left_out(folder: Path, tmp_path: Path) -> None:
    seen, new = example(3, "test", True), example(90, "test", True)
    renamed = Example(**{**seen.to_json(), "task_id": "other", "fault_spans": seen.fault_spans})
    spaced = Example("t/spaced", f" {seen.prompt}\n", seen.completion, 0.0, fault_spans=((13, 14),),
                     split="test")  # fmt: skip
    write_examples(tmp_path / "some.jsonl", [seen, renamed, spaced, new])
    record = audited(folder, "critic", faulty=Faulty(tmp_path / "some.jsonl"))
    assert record["programs"] == {"audited": 1, "without_known_fault": 0, "seen_in_training": 3}
    write_examples(tmp_path / "seen.jsonl", [seen, renamed])
    with pytest.raises(DataError, match="all 2 programs .* problems that the model was trained on"):
        audited(folder, "critic", faulty=Faulty(tmp_path / "seen.jsonl"))


def test_what_is_missing_at_the_end_is_counted_apart_or_scored_there(
    folder: Path, tmp_path: Path
) -> None:
    wrong, short = example(90, "test", True), example(91, "test", True)
    text = short.completion[:12]
    short = replace(short, completion=text, fault_spans=((12, 12),))
    write_examples(tmp_path / "both.jsonl", [wrong, short])
    faulty = Faulty(tmp_path / "both.jsonl")
    run = audited(folder, "critic", faulty=faulty)["runs"]["critic"]
    assert (run["left_out"], run["at_end"]) == (0, 1)
    assert run["metrics"]["weights/auroc/head_0"]["n"] == 1
    page = (folder / "audits" / "critic" / "audit.html").read_text()
    assert "1 not scored, which only lack something at their end" in page
    assert page.count("<article>") == 2
    *_, last = page.split("<article>")
    assert "something is missing at the end" in last
    marked = re.findall(r'<span class="[^"]*\bfault\b[^"]*"[^>]*>(.*?)</span>', last)
    assert marked == ["&lt;/s&gt;"]

    scored = replace(faulty, end_token=True)
    record = audited(folder, "critic", faulty=scored)
    run = record["runs"]["critic"]
    assert record["settings"]["end_token"]
    assert run["at_end"] == 0
    assert run["metrics"]["weights/auroc/head_0"]["n"] == 2
    write_examples(tmp_path / "end.jsonl", [short])
    with pytest.raises(DataError, match="--end-token for those that only lack something"):
        audited(folder, "critic", faulty=Faulty(tmp_path / "end.jsonl"))


def test_a_run_has_seen_what_the_run_it_started_from_has(folder: Path, tmp_path: Path) -> None:
    other = [example(i, "train", wrong) for i in range(200, 206) for wrong in (False, True)]
    write_examples(tmp_path / "other.jsonl", other)
    data = {"source": "jsonl", "path": str(tmp_path / "other.jsonl"), "max_length": 64}
    model = {"pretrained": str(folder / "reference"), "num_heads": 2}
    document = Document(
        "recipe.yaml",
        {
            "name": "second",
            "algorithm": {"name": "mtp-baseline"},
            "model": model,
            "data": {**data, "validation_split": None},
            "optimization": {**RECIPE["optimization"], "steps": 1},
            "evaluation": {"held_out_points": 0},
        },
    )
    seen = SeenProblems.load(train(document, where(tmp_path)).seen)
    assert example(3, "test", True) in seen
    assert example(203, "test", True) in seen
    assert example(300, "test", True) not in seen


def test_what_cannot_be_audited_is_said(folder: Path, tmp_path: Path) -> None:
    write_examples(tmp_path / "right.jsonl", [example(90, "test", False)])
    with pytest.raises(DataError, match="none of 1 examples has fault_spans"):
        audited(folder, "critic", faulty=Faulty(tmp_path / "right.jsonl"))
    far = Example("far", "p", "x = 1\n" * 100 + "y", 0.0, fault_spans=((600, 601),), split="test")
    write_examples(tmp_path / "far.jsonl", [far])
    with pytest.raises(DataError, match="no program has a fault, .* within the first 64"):
        audited(folder, "critic", faulty=Faulty(tmp_path / "far.jsonl"))
    with pytest.raises(ConfigError, match="has 400 positions"):
        audited(folder, "critic", faulty=Faulty(max_length=401))
    with pytest.raises(ConfigError, match="several runs needs --output"):
        audit([folder / "critic", folder / "rho1"], Faulty(), where(folder))
    with pytest.raises(ConfigError, match="folders of one name"):
        audited(folder, "critic", "critic")
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is missing"):
        audited(folder, "critic/model")
    unknown = Example("new", "p", "x = 1", None, fault_spans=((0, 1),), split="test")
    write_examples(tmp_path / "unknown.jsonl", [unknown])
    with pytest.raises(DataError, match="critic-wmtp needs the reward"):
        audited(folder, "critic", faulty=Faulty(tmp_path / "unknown.jsonl"))


def test_a_damaged_record_of_seen_problems_is_named(tmp_path: Path) -> None:
    file = tmp_path / "seen.npz"
    SeenProblems.of([example(1, "train", False)]).save(file)
    assert example(1, "test", True) in SeenProblems.load(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"seen\.npz: the record .* is damaged"):
        SeenProblems.load(file)


def test_the_command_prints_a_table_or_json(folder: Path, tmp_path: Path) -> None:
    words = ["audit", str(folder / "critic"), "--output", str(tmp_path / "a"), "--limit", "5"]
    words += ["--set-env", "device=cpu"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "5 programs with known faults" in shown.stdout
    assert "shuffled, head 0" in shown.stdout
    shown = CliRunner().invoke(app, [*words, "--json"])
    record = json.loads(shown.stdout)
    assert record["runs"]["critic"]["metrics"]["weights/auroc/head_0"]["n"] == 5
    assert record["settings"]["limit"] == 5


@pytest.mark.skipif(not QUIXBUGS.is_file(), reason=f"{QUIXBUGS} is not there")
def test_real_faults(folder: Path) -> None:
    settings = (f"path={QUIXBUGS}",)
    faulty = Faulty(source="quixbugs", settings=settings, max_length=400)
    record = audited(folder, "critic", "reference", faulty=faulty)
    run = record["runs"]["critic"]
    assert record["programs"]["audited"] == 20
    assert run["metrics"]["chance/auroc/head_0"]["n"] + run["left_out"] == 20
    assert run["left_out"] < 20
