"""What the documents say is true: commands exist, files are there, code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests.tiny import tiny_config
from wmtp.cli import app
from wmtp.config.environment import Environment
from wmtp.config.load import load_document
from wmtp.data.example import Example
from wmtp.data.sources.jsonl import write_examples
from wmtp.data.tokenizer import train_tokenizer
from wmtp.pipeline.train import train
from wmtp.registry import ALGORITHMS, SOURCES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = {group.name: group.typer_instance for group in app.registered_groups}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the `wmtp` command lines of all documents."""
    found = []
    for document in DOCUMENTS:
        for line in document.read_text(encoding="utf-8").splitlines():
            match = re.match(r"^    (wmtp [a-z].*?)(?:\s+#.*)?$", line)
            if match and "|" not in line:
                found.append(match[1].split()[1:])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_their_options_exist(words: list[str]) -> None:
    command = words[: 2 if words[0] in GROUPS else 1]
    help_text = CliRunner().invoke(app, [*command, "--help"])
    assert help_text.exit_code == 0
    for word in words[len(command) :]:
        if word.startswith("--"):
            assert word in help_text.stdout


def test_commands_listed_in_the_readme_are_all_there_are() -> None:
    listed = re.search(r"^    wmtp (quickstart \|.*)$", README, re.M)
    names = {name.strip() for name in listed[1].split("|")}
    names |= set(re.findall(r"^    wmtp (check|list|schema|doctor)\b", README, re.M))
    registered = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert names == registered
    for name, group in GROUPS.items():
        inner = re.search(rf"^    wmtp {name} (\w+ \|[^#\n]+)", README, re.M)[1]
        assert {word.strip() for word in inner.split("|")} == {
            c.name or c.callback.__name__ for c in group.registered_commands
        }


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"install", "quickstart", "test", "check", "bench", "ui", "clean"} <= targets
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_every_algorithm_and_source_is_documented() -> None:
    algorithms = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    sources = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in algorithms for name in ALGORITHMS.names())
    assert all(f"`{name}`" in sources for name in SOURCES.names())
    for recipe in re.findall(r"`(recipes/[a-z0-9-]+\.yaml)`", algorithms):
        assert (ROOT / recipe).is_file()


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(tiny_config(max_position_embeddings=64)).save_pretrained(
        tmp_path
    )
    (block,) = python_blocks(ROOT / "README.md")
    scope: dict[str, object] = {}
    exec(block.replace("path/to/llama", str(tmp_path)), scope)
    assert scope["ce"].shape == (2, 64, 4)


def test_the_readmes_settings_for_a_pretrained_model_are_accepted(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data.jsonl"
    train_tokenizer([f"{i} = {i}" for i in range(300)], 270).save_pretrained(model)
    config = tiny_config(vocab_size=270)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    write_examples(data, [Example(f"t/{i}", f"{i} =", f" {i}") for i in range(40)])
    text = " ".join(README.split())
    sentence = re.search(r"A pretrained model instead of one from scratch: `(.*?)`", text)
    settings = re.findall(r"--set (\S+)", sentence[1].replace("FOLDER", str(model)))
    assert len(settings) == 3
    document = load_document(ROOT / "recipes" / "mbpp-baseline.yaml", settings)
    small = [f"data={{source: jsonl, path: {data}, max_length: 32, validation_split: null}}"]
    document.override([*small, "evaluation=null", "optimization.epochs=1"])
    where = Environment(output_root=str(tmp_path), device="cpu", tracking={"enabled": False})
    assert train(document, where).totals()["steps"] == 40 // 16


def test_the_scheme_of_the_documentation_keeps_the_contract() -> None:
    from tests.algorithms.test_algorithms import batch

    (block,) = python_blocks(ROOT / "docs" / "algorithms.md")
    scope: dict[str, object] = {}
    exec(block, scope)
    scheme = scope["Focal"](scope["Focal"].Config(power=2.0))
    given = batch()
    weights = scheme.weigh(given).weights
    for k in range(3):
        assert weights[..., k][given.valid[..., k]].mean().item() == pytest.approx(1.0, abs=1e-5)
    assert not weights[~given.valid].any()
