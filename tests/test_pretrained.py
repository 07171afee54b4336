"""Loading what others made: whole or refused, safetensors only, and no code that comes with it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_model
from wmtp.data.tokenizer import load_tokenizer
from wmtp.errors import CheckpointError
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.convert import convert

INDEX = "model.safetensors.index.json"


def sharded(folder: Path) -> MTPModel:
    """Write a model whose backbone lies in several files."""
    model = tiny_model()
    model.save_pretrained(folder)
    model.backbone.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return model


def test_shards_come_back_and_convert(tmp_path: Path) -> None:
    ours = sharded(tmp_path / "sharded").state_dict()
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    for folder in ("sharded", "meta"):
        convert("native", tmp_path / folder, tmp_path / f"{folder}-native")
        found = MTPModel.from_pretrained(tmp_path / f"{folder}-native").state_dict()
        assert found.keys() == ours.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in ours.items())
        if folder == "sharded":
            convert("meta", tmp_path / "sharded", tmp_path / "meta")


@pytest.mark.parametrize("elsewhere", ["../outside.safetensors", "{above}/outside.safetensors"])
def test_an_index_reaches_no_other_folder(tmp_path: Path, elsewhere: str) -> None:
    sharded(tmp_path / "model")
    index = tmp_path / "model" / INDEX
    listed = json.loads(index.read_text())
    first = min(listed["weight_map"].values())
    (tmp_path / "model" / first).rename(tmp_path / "outside.safetensors")
    index.write_text(index.read_text().replace(first, elsewhere.format(above=tmp_path)))
    with pytest.raises(CheckpointError, match="which is no safetensors file beside it"):
        MTPModel.from_pretrained(tmp_path / "model")


def test_an_index_names_no_pickles(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.bin")}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names model\.bin, which is no safetensors"):
        MTPModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="no causal language model could be loaded"):
        MTPModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "nonsense"},
        {"num_hidden_layers": "3"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"hidden_act": "nothing"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    ],
)
def test_impossible_configurations_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match="no causal language model could be loaded"):
        MTPModel.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "mtp_config.json").unlink()
    with pytest.raises(CheckpointError, match="no causal language model could be loaded"):
        convert("native", tmp_path / "model", tmp_path / "out")


def test_code_beside_a_model_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does transformers ask whether it may, which a careless yes would answer."""
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    tokenizer = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    for load in (
        lambda: MTPModel.from_backbone(tmp_path),
        lambda: convert("native", tmp_path, tmp_path / "out"),
        lambda: load_tokenizer(tmp_path),
    ):
        with pytest.raises(CheckpointError, match="custom code"):
            load()
    assert not ran.exists()
    assert sys.stdin.read() == "y\n" * 9
