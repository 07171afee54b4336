"""Every family of models: heads are exact, whatever the family's code looks like.

`parity` runs all checks on one tiny random model of a family. docs/families.md is what they give:
`python -m tests.modeling.test_families` writes it again.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM

from tests.tiny import VOCAB, tiny_config
from wmtp.errors import CheckpointError
from wmtp.losses import horizon_labels
from wmtp.modeling import layout
from wmtp.modeling.heads import head_layers
from wmtp.modeling.mtp import MTPModel

# transformers before 5.23 scripts a function of GPT-BigCode.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "families.md"
LENGTH = 9
PAD = 3
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
SLIDING = {
    "sliding_window": 4,
    "layer_types": ["full_attention", "full_attention", "sliding_attention"],
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}

# Name: transformers model type, and what makes the tiny model show what is special about the family.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama 4 (text)": (
        "llama4_text",
        {
            **EXPERTS,
            "attention_chunk_size": 4,
            "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
            "no_rope_layers": [1, 0, 1],
            "moe_layers": [2],
        },
    ),
    "Mistral": ("mistral", {"sliding_window": 4}),
    "Ministral": ("ministral", SLIDING),
    "Mixtral": ("mixtral", EXPERTS),
    "Qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2-MoE": ("qwen2_moe", EXPERTS),
    "Qwen3": ("qwen3", {**SLIDING, "use_sliding_window": True}),
    "Qwen3-MoE": ("qwen3_moe", EXPERTS),
    "Qwen3-Next": (
        "qwen3_next",
        {
            **EXPERTS,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "OLMo": ("olmo", {}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", SLIDING),
    "OLMoE": ("olmoe", EXPERTS),
    "Phi": ("phi", {}),
    "Phi-3": ("phi3", {}),
    "Phi-MoE": ("phimoe", EXPERTS),
    "Gemma": ("gemma", {}),
    "Gemma 2": ("gemma2", {**SLIDING, "final_logit_softcapping": 1.0}),
    "Gemma 3 (text)": ("gemma3_text", SLIDING),
    "Cohere": ("cohere", {"logit_scale": 0.25}),
    "Cohere 2": ("cohere2", {**SLIDING, "logit_scale": 0.25}),
    "Granite": ("granite", {"logits_scaling": 3.0}),
    "Granite-MoE": ("granitemoe", {**EXPERTS, "logits_scaling": 3.0}),
    "SmolLM3": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "StarCoder2": ("starcoder2", {"sliding_window": 4}),
    "StableLM": ("stablelm", {}),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            **EXPERTS,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 2,
        },
    ),
    "GLM-4": ("glm4", {}),
    "GLM-4-MoE": ("glm4_moe", {**EXPERTS, "first_k_dense_replace": 2}),
    "gpt-oss": ("gpt_oss", {**EXPERTS, **SLIDING}),
    "Ernie 4.5": ("ernie4_5", {}),
    "EXAONE 4": ("exaone4", SLIDING),
    "Nemotron": ("nemotron", {}),
    "Seed-OSS": ("seed_oss", {}),
    "GPT-2": ("gpt2", {}),
    "GPT-BigCode": ("gpt_bigcode", {}),
    "GPT-Neo": (
        "gpt_neo",
        {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 4},
    ),
    "GPT-J": ("gptj", {"rotary_dim": 4}),
    "GPT-NeoX": ("gpt_neox", {}),
    "CodeGen": ("codegen", {"rotary_dim": 4}),
    "OPT": ("opt", {"word_embed_proj_dim": 16, "ffn_dim": 48}),
    "Bloom": ("bloom", {}),
    "MPT": ("mpt", {}),
    "Falcon": ("falcon", {"head_dim": None}),
    "Falcon-H1": (
        "falcon_h1",
        {**MAMBA, "mamba_d_ssm": 64, "mamba_chunk_size": 4, "lm_head_multiplier": 0.5},
    ),
    "Mamba": ("mamba", {"state_size": 8}),
    "Mamba 2": (
        "mamba2",
        {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 4},
    ),
    "Bamba": ("bamba", {**MAMBA, "mamba_chunk_size": 4, "attn_layer_indices": [1]}),
    "Jamba": ("jamba", {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1}),
    "LFM2": ("lfm2", {"layer_types": ["conv", "conv", "full_attention"]}),
}

# Name: model type and settings of families that are refused.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("bert", {"is_decoder": True}),
    "DeepSeek-V4": ("deepseek_v4", EXPERTS),
    "Gemma 3n (text)": (
        "gemma3n_text",
        {
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "intermediate_size": [48] * 3,
            "activation_sparsity_pattern": [0.0] * 3,
        },
    ),
    "ModernBERT decoder": ("modernbert-decoder", {}),
    "RecurrentGemma": ("recurrent_gemma", {}),
    "RWKV": ("rwkv", {}),
    "xLSTM": ("xlstm", {}),
}


def ids() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def plain_logits(model: Any) -> torch.Tensor:
    return model(ids(), use_cache=False).logits


def gradients(model: MTPModel, ce: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    ce.sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def close(found: Any, expected: Any) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def head_0_is_exact(model: MTPModel, _: Path) -> bool:
    plain = plain_logits(model.backbone)
    both = (model(ids()).logits, model.head_logits(ids())[:, :, 0])
    return all(torch.equal(plain, found) for found in both)


def heads_can_start_anyhow(model: MTPModel, _: Path) -> bool:
    """Copies predict what head 0 predicts; `linear-residual` and `random` are possible."""
    start = functools.partial(MTPModel.from_backbone, model.backbone, 2, num_head_layers=2)
    copied = start().head_logits(ids())
    start(head_init="linear-residual")
    own = model.head_logits(ids())
    drawn = (own[:, :, 0] - own[:, :, 1]).abs().max() > 1e-3
    return torch.equal(copied[:, :, 0], copied[:, :, 1]) and bool(drawn)


def gradients_are_those_of_autograd(model: MTPModel, _: Path) -> bool:
    labels = horizon_labels(ids(), model.num_heads)
    logits = model.head_logits(ids()).permute(0, 3, 1, 2)
    expected = F.cross_entropy(logits, labels, reduction="none")
    found = model(ids(), labels=labels).ce
    pairs = zip(gradients(model, found), gradients(model, expected), strict=True)
    return close(found, expected) and all(close(a, b) for a, b in pairs)


def generation_with_cache_is_greedy(model: MTPModel, _: Path) -> bool:
    model.backbone.generation_config.eos_token_id = None
    settings = {"input_ids": ids(), "max_new_tokens": 5, "do_sample": False}
    tokens = ids()
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    found = model.generate(**settings)
    return torch.equal(found, tokens) and torch.equal(found, model.backbone.generate(**settings))


def padding_changes_nothing(model: MTPModel, _: Path) -> bool:
    expected = model.head_logits(ids())
    right, left = (0, PAD), (PAD, 0)
    mask = torch.ones_like(ids())
    positions = F.pad(torch.arange(LENGTH).expand(2, -1), left)
    if not layout.takes_positions(layout.decoder_of(model.backbone)):
        positions = None
    found = model.head_logits(F.pad(ids(), right), F.pad(mask, right))
    also = model.head_logits(F.pad(ids(), left), F.pad(mask, left), positions)
    return close(found[:, :LENGTH], expected) and close(also[:, PAD:], expected)


def checkpointing_changes_nothing(model: MTPModel, _: Path) -> bool:
    labels = horizon_labels(ids(), model.num_heads)
    model = copy.deepcopy(model).train()
    runs: list[nn.Module] = []
    layers = layout.decoder_layers(model.backbone)
    layers += [layer for head in model.heads for layer in head_layers(head)]
    for layer in layers:
        next(layer.children()).register_forward_pre_hook(lambda module, _: runs.append(module))
    found = []
    for _ in range(2):
        torch.manual_seed(0)  # for the dropout of some
        found.append(gradients(model, model(ids(), labels=labels).ce))
        model.checkpoint_activations("all")
    recomputed = len(runs) == 3 * len(set(runs)) == 3 * len(layers)
    return recomputed and all(close(a, b) for a, b in zip(*found, strict=True))


def plain_model_loads(model: MTPModel, folder: Path) -> bool:
    plain = AutoModelForCausalLM.from_pretrained(folder)
    return torch.equal(plain_logits(plain), plain_logits(model.backbone)) and tied(plain)


def round_trip_is_exact(model: MTPModel, folder: Path) -> bool:
    again = MTPModel.from_pretrained(folder)
    ours, theirs = model.state_dict(), again.state_dict()
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    same_logits = torch.equal(again.head_logits(ids()), model.head_logits(ids()))
    return equal and same_logits and tied(again.backbone)


def tied(backbone: Any) -> bool:
    """Return whether input and output embeddings are one tensor, if the settings say so."""
    one = backbone.get_input_embeddings().weight is backbone.get_output_embeddings().weight
    return one == bool(backbone.config.tie_word_embeddings)


def attention_kernels_agree(model: MTPModel, _: Path) -> bool:
    if model.config._attn_implementation == "eager":
        return True  # the family has no other
    expected = model.head_logits(ids())
    model.backbone.set_attn_implementation("eager")
    found = model.head_logits(ids())
    model.backbone.set_attn_implementation("sdpa")
    return close(found, expected)


CHECKS: dict[str, Callable[[MTPModel, Path], bool]] = {
    "head 0": head_0_is_exact,
    "starts": heads_can_start_anyhow,
    "gradients": gradients_are_those_of_autograd,
    "cache": generation_with_cache_is_greedy,
    "padding": padding_changes_nothing,
    "checkpointing": checkpointing_changes_nothing,
    "plain load": plain_model_loads,
    "round trip": round_trip_is_exact,
    "attention": attention_kernels_agree,
}


@functools.cache
def parity(name: str) -> dict[str, str]:
    """Return a row of the table: yes or no for every check, and notes on the tiny model."""
    model_type, settings = FAMILIES[name]
    torch.manual_seed(0)
    config = tiny_config(model_type, **settings)
    # Of the three layers, the trunk has one and every head two: of different kinds where there are kinds.
    model = MTPModel.from_config(config, 3, num_head_layers=2).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = {column: check(model, Path(folder)) for column, check in CHECKS.items()}
    return {
        "family": name,
        "model_type": f"`{model_type}`",
        **{column: "yes" if value else "no" for column, value in found.items()},
        "notes": ", ".join(notes(model)),
    }


def notes(model: MTPModel) -> list[str]:
    config = model.config
    options = layout.logit_options(config)
    unembedding = model.backbone.get_output_embeddings()
    decoder = layout.decoder_of(model.backbone)
    modules = {name.rpartition(".")[2] for name, _ in decoder.named_modules()}
    found = {
        "tied": config.tie_word_embeddings,
        "sliding window": getattr(config, "sliding_window", None) or hasattr(config, "window_size"),
        "chunked attention": hasattr(config, "attention_chunk_size"),
        "mixture of experts": "experts" in modules,
        "recurrent or convolutional layers": modules & {"mamba", "mixer", "linear_attn", "conv"},
        "logit scale": options["logit_scale"] != 1,
        "soft cap": options["softcap"] is not None,
        "unembedding with bias": unembedding.bias is not None,
        "narrow embeddings": unembedding.in_features != config.hidden_size,
        "no position_ids": not layout.takes_positions(decoder),
    }
    return [note for note, holds in found.items() if holds]


def refusal(name: str) -> str:
    model_type, settings = REFUSED[name]
    with pytest.raises(CheckpointError, match=f"{model_type} models cannot have") as caught:
        MTPModel.from_config(tiny_config(model_type, **settings))
    return str(caught.value).partition(": ")[2].partition(". docs/")[0]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models as small as these only wait for further threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", FAMILIES)
def test_parity(name: str) -> None:
    row = parity(name)
    assert not [column for column, value in row.items() if value == "no"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused(name: str) -> None:
    assert refusal(name)


def test_model_types_that_pass_unseen_are_those_measured_here() -> None:
    assert {model_type for model_type, _ in FAMILIES.values()} == layout.TESTED


def document() -> str:
    rows = [parity(name) for name in FAMILIES]
    refused = [
        {"family": name, "model_type": f"`{model_type}`", "why": refusal(name)}
        for name, (model_type, _) in REFUSED.items()
    ]
    return TEXT.format(table=table(rows), refusals=table(refused))


def table(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TEXT = """# Model families

Future heads can be put on these causal language models of transformers. Written by
`python -m tests.modeling.test_families` from the checks of that file, on random models of three layers;
a test compares.

{table}

- **head 0**: next-token logits equal the original's bit for bit (without its cache, in float32 on a CPU).
- **starts**: copied heads predict what head 0 predicts, `linear-residual` and `random` are possible.
- **gradients**: `ce` and its gradients are those of torch's cross entropy of all logits.
- **cache**: `generate`, with the family's key/value cache, gives what greedy choice without it gives.
- **padding**: rows padded right or left have the logits of unpadded ones, for every head. Left-padded rows
  need `position_ids` in families with absolute positions, such as GPT-2.
- **checkpointing**: recomputing activations, of trunk and heads, gives the same gradients.
- **plain load**: `AutoModelForCausalLM.from_pretrained` of the checkpoint gives the next-token model.
- **round trip**: `MTPModel.from_pretrained` of the checkpoint gives every tensor bit for bit.
- **attention**: the eager kernel and that of torch agree, where the family has both.

Every head has `num_head_layers` decoder layers; here two, so that a head has layers of different kinds
(sliding and full attention, dense and experts) where the family does.

Other families work when their code is laid out like one of these. Every model is run on two tokens when
heads are put on it, and one that does more than scale and cap its logits, or that has more than a norm
between its last layer and its unembedding, is refused with the reason:

{refusals}

**Mixture of experts.** The load-balancing loss of routers, which some families add to their own loss
(`router_aux_loss_coef`), is not part of the training loss: routers learn from the cross entropy alone. Each
further head has routers and experts of its own.
"""


def test_the_document_is_what_the_checks_give() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
