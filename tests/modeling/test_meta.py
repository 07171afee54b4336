"""Meta's layout: the same logits as a forward written without us, and back bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import meta_release
from tests.tiny import tiny_config, tiny_model
from wmtp.errors import CheckpointError
from wmtp.modeling.meta import read_meta
from wmtp.modeling.meta_export import write_meta
from wmtp.modeling.mtp import MTPModel


def ids() -> Tensor:
    return torch.randint(3, meta_release.VOCAB, (2, 11), generator=torch.Generator().manual_seed(1))


def loaded(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "consolidated.00.pth", weights_only=True)


def same(one: MTPModel, two: MTPModel) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


# ---- reading ------------------------------------------------------------------------------------

RELEASES: dict[str, dict[str, Any]] = {
    "next token": {"heads": 1},
    "four heads": {"heads": 4},
    "multi-head attention": {"heads": 2, "kv_heads": None},
    "sizes left to the tensors": {"heads": 4, "vocab_size": -1},
    "extra heads not counted": {"heads": 4, "n_layers": 4},
    "scaled feed-forward, other angles": {
        "heads": 3, "ffn_dim_multiplier": 1.3, "rope_theta": 5e5, "max_seq_len": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", RELEASES.values(), ids=RELEASES.keys())
@pytest.mark.parametrize("files", ["consolidated.pth", "one", "two by columns", "two by rows"])
def test_logits_are_those_of_an_independent_forward(
    tmp_path: Path, files: str, changes: dict[str, Any]
) -> None:
    params = meta_release.settings(**changes)
    tensors = meta_release.weights(params, changes["heads"])
    stored = {**tensors, "rope.freqs": torch.ones(4)}
    if files == "consolidated.pth":
        meta_release.write(tmp_path, params, stored, name=files)
    elif files == "one":
        meta_release.write(tmp_path, params, stored)
    else:
        shards = meta_release.cut(tensors, 2, embedding_dim=1 if files == "two by columns" else 0)
        meta_release.write(tmp_path, params, *shards)
    model = read_meta(tmp_path)
    assert model.num_heads == changes["heads"]
    want = meta_release.logits(params, tensors, ids())
    assert want.shape == (2, 11, changes["heads"], meta_release.VOCAB)
    torch.testing.assert_close(model.head_logits(ids()), want, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_and_the_model_learns(tmp_path: Path) -> None:
    params = meta_release.settings()
    tensors = meta_release.weights(params)
    meta_release.write(tmp_path / "meta", params, {k: v.bfloat16() for k, v in tensors.items()})
    before = (tmp_path / "meta" / "consolidated.00.pth").read_bytes()
    model = read_meta(tmp_path / "meta")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path / "native")
    assert same(MTPModel.from_pretrained(tmp_path / "native"), model)
    model.head_logits(ids()).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= parameter.grad
    assert (tmp_path / "meta" / "consolidated.00.pth").read_bytes() == before


def test_a_tied_unembedding_gets_memory_of_its_own(tmp_path: Path) -> None:
    params = meta_release.settings()
    tensors = meta_release.weights(params)
    tensors["output.weight"] = tensors["tok_embeddings.weight"]
    model = read_meta(meta_release.write(tmp_path, params, tensors))
    one, two = (model.backbone.get_input_embeddings(), model.backbone.get_output_embeddings())
    assert torch.equal(one.weight, two.weight)
    assert one.weight.data_ptr() != two.weight.data_ptr()


# ---- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("intermediate_size", [48, 120, 256])
def test_export_is_read_back_bit_for_bit(
    tmp_path: Path, heads: int, intermediate_size: int
) -> None:
    torch.manual_seed(0)
    config = tiny_config(
        intermediate_size=intermediate_size,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    model = MTPModel.from_config(config, heads).bfloat16()
    model.add_value_head("linear", train_trunk=True)
    write_meta(model, tmp_path)
    again = read_meta(tmp_path)
    model.value_head = None
    assert same(again, model)
    assert torch.equal(again.head_logits(ids()), model.eval().head_logits(ids()))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "consolidated.00.pth",
        "params.json",
    ]


def test_export_means_the_same_to_an_independent_forward(tmp_path: Path) -> None:
    model = tiny_model().eval()
    write_meta(model, tmp_path)
    params, tensors = json.loads((tmp_path / "params.json").read_text()), loaded(tmp_path)
    assert params["n_layers"] == 6
    assert meta_release.feed_forward_size(params) == 48
    want = meta_release.logits(params, tensors, ids())
    torch.testing.assert_close(model.head_logits(ids()), want, rtol=1e-5, atol=1e-5)


def test_released_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    params = meta_release.settings()
    tensors = meta_release.weights(params)
    write_meta(read_meta(meta_release.write(tmp_path / "a", params, tensors)), tmp_path / "b")
    again = loaded(tmp_path / "b")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[k], tensors[k]) for k in tensors)
    written = json.loads((tmp_path / "b" / "params.json").read_text())
    assert {k: v for k, v in written.items() if k != "multiple_of"} == {
        k: v for k, v in params.items() if k != "multiple_of"
    }


def test_a_tied_unembedding_is_written_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MTPModel.from_config(tiny_config(tie_word_embeddings=True), 2).eval()
    write_meta(model, tmp_path)
    again = read_meta(tmp_path)
    assert not again.config.tie_word_embeddings
    assert torch.equal(again.head_logits(ids()), model.head_logits(ids()))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3", {}, "the family is qwen3"),
        ("llama", {"attention_bias": True}, "its layers have biases"),
        ("llama", {"mlp_bias": True}, "its layers have biases"),
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("llama", {"head_dim": 16}, "4 attention heads of 16 do not add up to its width 32"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "its rotary angles are scaled",
        ),
    ],
)
def test_what_the_layout_cannot_hold(
    tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    model = MTPModel.from_config(tiny_config(family, **changes), 2)
    with pytest.raises(CheckpointError, match=message):
        write_meta(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- what is wrong with a folder ----------------------------------------------------------------


class Code:
    """Unpickles by running a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def refused(folder: Path) -> str:
    """Return the message that reading `folder` ends with: one line."""
    with pytest.raises(CheckpointError) as caught:
        read_meta(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    params = meta_release.settings()
    tensors: dict[str, Any] = meta_release.weights(params)
    tensors["output.weight"] = Code(f"touch {tmp_path}/ran")
    message = refused(meta_release.write(tmp_path, params, tensors))
    assert "holds more than tensors (posix.system). Loading it would run code" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path: Path, keep: float) -> None:
    params = meta_release.settings()
    meta_release.write(tmp_path, params, meta_release.weights(params))
    file = tmp_path / "consolidated.00.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    assert "is cut off" in refused(tmp_path)


def test_archives_that_hold_something_else(tmp_path: Path) -> None:
    import zipfile

    params = meta_release.settings()
    meta_release.write(tmp_path, params)
    file = tmp_path / "consolidated.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "text")
    assert "is damaged" in refused(tmp_path)
    for held in (
        [torch.ones(1)],
        {"model": {"a": torch.ones(1)}},
        {"a": torch.ones(1).to_sparse()},
        {"a": torch.ones(1, device="meta")},
    ):
        torch.save(held, file)
        assert "expected a dictionary of tensors" in refused(tmp_path)
    torch.save({"a": torch.ones(1), "b": torch.ones(1, dtype=torch.int8)}, file)
    assert "one floating-point type, found float32, int8" in refused(tmp_path)
    torch.save({}, file)
    assert "one floating-point type, found none" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be read \(No such file"),
        ("{", "not valid JSON"),
        ("[1]", "expected"),
        ("{}", "dim: missing"),
        ({"dim": "32"}, "dim: expected a whole number, found '32'"),
        ({"norm_eps": None}, "norm_eps: expected a number"),
        ({"n_heads": 0}, "n_heads: 0 is not above 0"),
        ({"n_heads": 5}, "n_heads 5 must divide dim 32"),
        ({"n_kv_heads": 3}, "n_kv_heads 3 must divide n_heads"),
        ({"use_scaled_rope": True}, "use_scaled_rope: scaled rotary angles"),
        ({"n_layers": 8}, "n_layers is 8 by params.json, but 7 by the tensors"),
        ({"n_future_tokens": 3}, "n_future_tokens is 3 by params.json, but 4 by the tensors"),
        ({"vocab_size": 41}, "vocab_size is 41 by params.json, but 40 by the tensors"),
        ({"multiple_of": 25}, "the feed-forward width is 100 by params.json, but 96 by"),
        ({"dim": 64}, "32 columns in each of 1 files, but dim is 64"),
        ({"n_kv_heads": 4}, "layers.0.attention.wk.weight is 16x32, expected 32x32"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, text: Any, message: str) -> None:
    import re

    params = meta_release.settings()
    meta_release.write(tmp_path, params, meta_release.weights(params))
    file = tmp_path / "params.json"
    if text is None:
        file.unlink()
    else:
        file.write_text(json.dumps(params | text) if isinstance(text, dict) else text)
    assert re.search(message, refused(tmp_path))


def test_tensors_that_are_missing_unknown_or_of_another_shape(tmp_path: Path) -> None:
    params = meta_release.settings()
    tensors = meta_release.weights(params)

    def message(**changes: Any) -> str:
        changed = {k.replace("__", "."): v for k, v in changes.items()}
        held = {k: v for k, v in (tensors | changed).items() if v is not None}
        return refused(meta_release.write(tmp_path, params, held))

    assert "lacks norm.weight (1 in all)" in message(norm__weight=None)
    assert "lacks extra_heads.1.attention.wq.weight (1" in message(
        extra_heads__1__attention__wq__weight=None
    )
    assert "also has lm_head.weight (1 in all)" in message(lm_head__weight=torch.ones(1))
    assert "norm.weight is 31, expected 32" in message(norm__weight=torch.ones(31))
    assert "layers.0.attention.wo.weight has 1 columns" in message(
        layers__0__attention__wo__weight=torch.tensor(1.0)
    )
    assert "tok_embeddings.weight is a single number, expected 40x32" in message(
        tok_embeddings__weight=torch.tensor(1.0)
    )
    dropped = {k.replace(".", "__"): None for k in tensors if k.startswith("layers.")}
    assert "n_layers is 7 by params.json, but 4 by the tensors" in message(**dropped)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("extra_heads.2")}
    assert "n_layers is 7 by params.json, but 6 by the tensors" in message()


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    params = meta_release.settings()
    tensors = meta_release.weights(params)
    one, two = meta_release.cut(tensors, 2)
    alone = meta_release.write(tmp_path / "alone", params, one)
    assert "16 columns in each of 1 files, but dim is 32" in refused(alone)
    gap = meta_release.write(tmp_path / "gap", params, one, two)
    (gap / "consolidated.01.pth").rename(gap / "consolidated.02.pth")
    assert "consolidated.01.pth is missing, consolidated.02.pth is there" in refused(gap)
    both = meta_release.write(tmp_path / "both", params, one, two)
    torch.save(tensors, both / "consolidated.pth")
    assert "holds both consolidated.pth and consolidated.00.pth" in refused(both)
    name = "layers.1.feed_forward.w1.weight"
    odd = meta_release.write(tmp_path / "odd", params, one, {**two, name: two[name][:-1]})
    assert f"hold {name} in different shapes: 47x32, 48x32" in refused(odd)
    norm = {**two, "norm.weight": two["norm.weight"] + 1}
    other = meta_release.write(tmp_path / "other", params, one, norm)
    assert "hold different values of norm.weight" in refused(other)
    del two[name]
    less = meta_release.write(tmp_path / "less", params, one, two)
    assert f"consolidated.01.pth: lacks {name}" in refused(less)


def test_no_files_at_all(tmp_path: Path) -> None:
    assert "no consolidated.pth and no consolidated.00.pth there" in refused(tmp_path)
