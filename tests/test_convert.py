"""`wmtp convert`: every layout into every other, with tokenizer and card, whole or not at all."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner, Result

import wmtp.data.tokenizer
import wmtp.pipeline.convert
from tests import meta_release
from tests.test_pipeline import environment, recipe
from tests.tiny import tiny_config, tiny_model
from wmtp.cli import app
from wmtp.config.recipe import Recipe
from wmtp.data.example import Example
from wmtp.data.sources.jsonl import write_examples
from wmtp.data.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from wmtp.errors import CheckpointError
from wmtp.modeling.meta import read_meta
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.convert import convert
from wmtp.pipeline.results import training_facts
from wmtp.pipeline.train import train

LAYOUTS = ("meta", "hf", "native")


def ids() -> torch.Tensor:
    return torch.randint(3, meta_release.VOCAB, (2, 11), generator=torch.Generator().manual_seed(1))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)], prog_name="wmtp")


def complaint(*arguments: object) -> str:
    """Return the one line that a wrong command ends with."""
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def front_matter(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in each layout, with 4 heads where the layout has them; only `native` has files
    of a tokenizer."""
    folder = tmp_path_factory.mktemp("sources")
    params = meta_release.settings()
    meta_release.write(folder / "meta", params, meta_release.weights(params))
    model = read_meta(folder / "meta")
    model.backbone.save_pretrained(folder / "hf")
    model.save_pretrained(folder / "native")
    train_tokenizer(["ab"], 260).save_pretrained(folder / "native")
    return {layout: folder / layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    write_examples(
        folder / "data.jsonl",
        [
            Example(f"t/{i}", "# f\n", f"x = {i}\n", 1.0, split=split)
            for i, split in enumerate(["train"] * 8 + ["validation"] * 2)
        ],
    )
    file = folder / "data.jsonl"
    document = recipe(
        file,
        data={"source": "jsonl", "path": str(file), "max_length": 64},
        optimization={"learning_rate": 1e-2, "global_batch": 4, "steps": 2},
    )
    return train(document, environment(folder)).path


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_every_direction(
    sources: dict[str, Path], tmp_path: Path, source: str, target: str
) -> None:
    output = tmp_path / "new" / "output"
    done = convert(target, sources[source], output)
    heads = 1 if "hf" in (source, target) else 4
    assert (done.layout, done.source_layout, done.num_heads) == (target, source, heads)
    want = MTPModel.from_pretrained(sources["native"]).head_logits(ids())[:, :, :heads]
    if target == "meta":
        found = read_meta(output).head_logits(ids())
    elif target == "hf":
        found = AutoModelForCausalLM.from_pretrained(output)(ids()).logits[:, :, None]
        assert not list(output.glob("mtp_*"))
    else:
        found = MTPModel.from_pretrained(output).head_logits(ids())
    assert torch.equal(found, want)
    assert [path.name for path in output.parent.iterdir()] == ["output"]
    text = " ".join(done.notices)
    assert ("heads 1 to 3 were left out" in text) == (target == "hf" != source)
    assert ("there is no tokenizer" in text) == (source != "native")
    assert (output / "tokenizer.json").is_file() == (source == "native")


def test_new_heads_are_copies_of_head_0(sources: dict[str, Path], tmp_path: Path) -> None:
    done = run("native", sources["hf"], tmp_path / "out", "--num-heads", 3, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "output": f"{tmp_path}/out",
        "layout": "native",
        "source_layout": "hf",
        "num_heads": 3,
        "notices": [f"{sources['hf']}: there is no tokenizer; the model was converted without"],
    }
    logits = MTPModel.from_pretrained(tmp_path / "out").head_logits(ids())
    assert all(torch.equal(logits[:, :, k], logits[:, :, 0]) for k in (1, 2))
    assert run("native", sources["native"], tmp_path / "b", "--num-heads", 4).exit_code == 0


def test_a_finished_run_as_text(finished: Path, tmp_path: Path) -> None:
    done = run("meta", finished, tmp_path / "out")
    assert done.exit_code == 0
    assert done.stdout == f"model: {tmp_path}/out (native to meta, heads: 3)\n"
    assert done.stderr == ""
    trained, found = MTPModel.from_pretrained(finished / "model"), read_meta(tmp_path / "out")
    assert torch.equal(trained.head_logits(ids()), found.head_logits(ids()))
    # And back: the tokens that begin and end texts come from the tokenizer that went along.
    assert run("native", tmp_path / "out", tmp_path / "back").exit_code == 0
    back = MTPModel.from_pretrained(tmp_path / "back")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(back.config, name) == getattr(trained.config, name)
    assert back.backbone.generation_config.eos_token_id == trained.config.eos_token_id
    tokenizers = (load_tokenizer(folder) for folder in (finished / "model", tmp_path / "back"))
    assert len({fingerprint(tokenizer) for tokenizer in tokenizers}) == 1


def test_a_value_head_is_kept_or_named(tmp_path: Path) -> None:
    tiny_model(value_head=True).save_pretrained(tmp_path / "model")
    convert("native", tmp_path / "model", tmp_path / "native")
    assert MTPModel.from_pretrained(tmp_path / "native").value_head is not None
    assert "A value head (linear)" in (tmp_path / "native" / "README.md").read_text()
    for target in ("meta", "hf"):
        notices = convert(target, tmp_path / "model", tmp_path / target).notices
        assert f"the value head was left out: {target} has no place for it" in notices
        assert "value head" not in (tmp_path / target / "README.md").read_text()


# ---- cards --------------------------------------------------------------------------------------


def test_the_card_of_a_run_goes_along(finished: Path, tmp_path: Path) -> None:
    totals = json.loads((finished / "run.json").read_text())
    trained = (
        "Trained by wmtp from random weights: algorithm `mtp-baseline`, data source `jsonl`, "
        f"{totals['tokens']:,} tokens, seed 0."
    )
    card = (finished / "model" / "README.md").read_text()
    assert trained in card
    assert f"{totals['num_parameters']:,} parameters (float32). 3 parallel heads" in card
    assert "Converted" not in card
    convert("meta", finished, tmp_path / "meta")
    convert("hf", tmp_path / "meta", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert trained in card
    assert "Converted by wmtp from Meta's layout." in card
    (finished / "model" / "README.md").unlink()  # as from an older version
    convert("hf", finished / "model", tmp_path / "old")
    assert trained in (tmp_path / "old" / "README.md").read_text()


def test_a_card_names_what_a_model_started_from(finished: Path, tmp_path: Path) -> None:
    def start(pretrained: str) -> str | None:
        document = recipe(tmp_path / "x.jsonl", model={"pretrained": pretrained}, tokenizer={})
        return training_facts(document.validate(Recipe), 1).start

    assert start("org/model") == "org/model"
    assert start(str(finished)) == finished.name
    assert start("/home/someone/models/llama") == "llama"


def test_cards_say_how_to_load(sources: dict[str, Path], tmp_path: Path) -> None:
    for target in LAYOUTS:
        convert(target, sources["meta"], tmp_path / target)
    front = {target: front_matter(tmp_path / target) for target in LAYOUTS}
    assert {target: front[target]["library_name"] for target in LAYOUTS} == {
        "meta": "wmtp",
        "hf": "transformers",
        "native": "transformers",
    }
    assert front["hf"]["tags"] == ["llama"]
    assert front["native"]["tags"] == ["llama", "multi-token-prediction"]
    assert not {"license", "base_model", "wmtp"} & set(front["native"])
    card = (tmp_path / "native" / "README.md").read_text()
    codes = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(codes) == 2
    for code in codes:
        exec(code.replace("path/to/this/folder", str(tmp_path / "native")), scope := {})
        assert isinstance(scope["model"], torch.nn.Module)
    heads, plain = (
        int(
            re.search(r"^([\d,]+) parameters", (tmp_path / t / "README.md").read_text(), re.M)[
                1
            ].replace(",", "")
        )
        for t in ("meta", "hf")
    )
    assert plain == AutoModelForCausalLM.from_pretrained(tmp_path / "hf").num_parameters()
    assert heads == sum(p.numel() for p in read_meta(tmp_path / "meta").parameters())


def test_license_and_base_model_go_along_and_odd_cards_do_not_matter(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    card = sources["hf"] / "README.md"
    for text, known in (
        ("---\nlicense: mit\nbase_model: a/b\nother: 1\n---\n", {"license": "mit", "base_model": "a/b"}),
        ("---\nlicense: [\n---\n", {}),
        ("---\ndate: 2026-99-99\n---\n", {}),
        ("---\n- a\n---\n", {}),
        ("---\n", {}),
        ("---\nwmtp: {tokens: many}\n---\n", {}),
        ("# No front matter\n", {}),
    ):  # fmt: skip
        card.write_text(text)
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        convert("native", sources["hf"], output)
        front = front_matter(output)
        assert {k: v for k, v in front.items() if k in ("license", "base_model", "wmtp")} == known
    card.unlink()


# ---- tokenizers ---------------------------------------------------------------------------------


def sentencepiece_model() -> bytes:
    """Return a `tokenizer.model` of 266 pieces."""
    pytest.importorskip("google.protobuf")
    model = import_module("transformers.utils.sentencepiece_model_pb2_new").ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    pieces += [(piece, 1) for piece in ("▁a", "ab", "▁ab", "▁", "a", "b", "c")]
    for i, (piece, kind) in enumerate(pieces):
        model.pieces.add(piece=piece, type=kind, score=-float(i))
    return bytes(model.SerializeToString())


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release as Meta's: `tokenizer.model` above the folder of a model of 300 tokens."""
    params = meta_release.settings(vocab_size=300)
    tensors = meta_release.weights(params)
    for name in ("tok_embeddings.weight", "output.weight"):
        tensors[name] = torch.randn(300, 32)
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    return meta_release.write(tmp_path / "7B_200B_4", params, tensors, name="consolidated.pth")


def test_a_sentencepiece_tokenizer_becomes_one_that_transformers_loads(
    release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # transformers reads the file with protobuf alone, but asks for the package that wrote it.
    monkeypatch.setattr(wmtp.data.tokenizer, "is_sentencepiece_available", lambda: True)
    module = import_module("transformers.convert_slow_tokenizer")
    monkeypatch.setattr(module, "requires_backends", lambda *_: None)
    done = convert("native", release, tmp_path / "out")
    assert done.notices == [f"the tokenizer is {tmp_path}/tokenizer.model"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("ab c é") == ["▁ab", "▁", "c", "▁", "<0xC3>", "<0xA9>"]
    config = MTPModel.from_pretrained(tmp_path / "out").config
    assert (config.bos_token_id, config.eos_token_id) == (1, 2)
    (tmp_path / "tokenizer.model").write_bytes(b"no pieces")
    monkeypatch.undo()
    (release / "tokenizer.json").write_text("{")
    assert "no tokenizer could be loaded" in convert("hf", release, tmp_path / "hf").notices[-1]


def test_a_tokenizer_that_cannot_be_read_is_a_notice(
    release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wmtp.data.tokenizer, "is_sentencepiece_available", lambda: False)
    done = run("native", release, tmp_path / "a")
    assert done.exit_code == 0
    assert "note: " in done.stderr
    assert "Run `pip install sentencepiece` and convert again." in done.stderr
    assert (tmp_path / "a" / "tokenizer.model").read_bytes() == sentencepiece_model()
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"IQ== 0\nIg== 1\n")
    assert "Llama 3's tiktoken format" in convert("hf", release, tmp_path / "b").notices[-1]
    file.write_bytes(b"not protobuf")
    monkeypatch.setattr(wmtp.data.tokenizer, "is_sentencepiece_available", lambda: True)
    assert "is not a SentencePiece model" in convert("hf", release, tmp_path / "c").notices[-1]


def test_a_tokenizer_of_another_model_is_refused(
    sources: dict[str, Path], release: Path, tmp_path: Path
) -> None:
    for file in sources["native"].glob("tokenizer*"):
        (release / file.name).write_bytes(file.read_bytes())
    (release / "consolidated.pth").unlink()
    params = meta_release.settings()
    meta_release.write(release, params, meta_release.weights(params))
    with pytest.raises(CheckpointError, match="has 260 tokens, the model only 40"):
        convert("native", release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_conversion_that_breaks_off_leaves_nothing(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wmtp.pipeline.convert, "write_model_card", interrupt)
    assert run("native", sources["native"], tmp_path / "out").exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_wrong_commands(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert complaint("natve", sources["meta"], out) == (
        "convert: unknown layout 'natve'. Did you mean 'native'? Known: meta, hf, native."
    )
    assert "no such folder" in complaint("hf", tmp_path / "none", out)
    assert "no model in it" in complaint("hf", tmp_path, out)
    assert "something is there already" in complaint("hf", sources["meta"], tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    assert "something is there already" in complaint("hf", sources["meta"], tmp_path / "link")
    assert "has 4 heads" in complaint("native", sources["meta"], out, "--num-heads", 2)
    assert "has 4 heads" in complaint("meta", sources["native"], out, "--num-heads", 1)
    assert "hf has head 0 alone" in complaint("hf", sources["hf"], out, "--num-heads", 2)
    assert "0 heads cannot be" in complaint("native", sources["hf"], out, "--num-heads", 0)
    assert not out.exists()


def test_wrong_sources(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = tmp_path / "both"
    both.mkdir()
    (both / "params.json").write_text("{}")
    assert "no consolidated.pth" in complaint("native", both, out)
    (both / "config.json").write_text("{}")
    assert "holds both Meta's files and a config.json" in complaint("native", both, out)
    backbone = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40))
    backbone.save_pretrained(tmp_path / "gpt2")
    assert "gpt2: " in complaint("native", tmp_path / "gpt2", out)
    MTPModel.from_config(tiny_config("qwen3"), 2).save_pretrained(tmp_path / "qwen3")
    assert "Meta's layout cannot hold this model" in complaint("meta", tmp_path / "qwen3", out)
    deep = MTPModel.from_config(tiny_config(), 2, num_head_layers=2)
    deep.save_pretrained(tmp_path / "deep")
    assert "heads of 2 layers" in complaint("meta", tmp_path / "deep", out)
    assert not out.exists()
