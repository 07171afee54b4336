"""Heads that take turns: the same losses and gradients, and one head's activations at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.modeling.test_families import FAMILIES
from tests.tiny import VOCAB, on_two_processes, tiny_config, tiny_data, tiny_model, trainer_for
from tests.training.test_trainer import algorithms, model_for
from wmtp.losses import horizon_labels
from wmtp.modeling import mtp
from wmtp.modeling.lora import add_lora
from wmtp.modeling.mtp import MTPModel

# The code of GPT-BigCode, as transformers 5.17 has it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

HEADS = 4
IDS = torch.randint(3, VOCAB, (2, 11), generator=torch.Generator().manual_seed(1))
LABELS = horizon_labels(IDS, HEADS)
WEIGHTS = torch.rand(LABELS.shape, generator=torch.Generator().manual_seed(2))
WEIGHTS = WEIGHTS * (LABELS != -100) * (WEIGHTS > 0.3)


def step(model: MTPModel, dtype: torch.dtype | None = None, **given: Any) -> tuple[Any, ...]:
    """Return what a step gives: sum, cross entropies, gradients."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        out = model(IDS, labels=LABELS, weigh=lambda *_: WEIGHTS, **given)
    loss = 3 * out.weighted_ce
    if out.value is not None:
        loss = loss + out.value.sum()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out.weighted_ce.detach(), out.ce, {n: g.clone() for n, g in gradients.items()}


def both(model: MTPModel, part: str = "heads", **given: Any) -> tuple[Any, Any]:
    """Return a step of all heads at once, and one of heads that take turns."""
    model.train()
    torch.manual_seed(0)
    plain = step(model, **given)
    turns = copy.deepcopy(model)
    turns.checkpoint_activations(part)
    torch.manual_seed(0)
    return plain, step(turns, **given)


def assert_equal(plain: Any, turns: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(turns[0], plain[0], rtol=rtol, atol=atol)
    torch.testing.assert_close(turns[1], plain[1], rtol=rtol, atol=atol)
    assert not turns[1].requires_grad
    assert turns[2].keys() == plain[2].keys()
    for name, gradient in plain[2].items():
        torch.testing.assert_close(turns[2][name], gradient, rtol=rtol, atol=atol, msg=name)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the passes whose heads took turns."""
    found: list[int] = []
    plain = mtp.weighted_in_turn

    def count(*args: Any) -> tuple[Tensor, Tensor]:
        found.append(1)
        return plain(*args)

    monkeypatch.setattr(mtp, "weighted_in_turn", count)
    return found


@pytest.mark.parametrize("name", list(FAMILIES))
def test_gradients_of_every_family_are_those_of_all_heads_at_once(
    name: str, taken: list[int]
) -> None:
    family, sizes = FAMILIES[name]
    torch.manual_seed(0)
    model = MTPModel.from_config(tiny_config(family, **sizes), HEADS, "copy")
    plain, turns = both(model)
    assert_equal(plain, turns, rtol=1e-3)
    assert taken


@pytest.mark.parametrize("part", ["heads", "all"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("frozen", ["nothing", "backbone", "trunk", "unembedding", "heads"])
def test_whatever_learns(part: str, layers: int, frozen: str, taken: list[int]) -> None:
    torch.manual_seed(0)
    model = MTPModel.from_config(tiny_config(), HEADS, num_head_layers=layers)
    model.add_value_head("evidence", train_trunk=True)
    still: dict[str, list[torch.nn.Module]] = {
        "nothing": [],
        "backbone": [model.backbone],
        "trunk": [*model.backbone.model.layers[:-layers], model.backbone.model.embed_tokens],
        "unembedding": [model.backbone.lm_head],
        "heads": [*model.heads],
    }
    for module in still[frozen]:
        module.requires_grad_(False)
    assert_equal(*both(model, part))
    assert taken


def test_autocast_and_float64() -> None:
    assert_equal(*both(tiny_model(HEADS).double()), rtol=1e-5, atol=1e-6)  # norms are float32
    plain, turns = both(tiny_model(HEADS), dtype=torch.bfloat16)
    exact = step(tiny_model(HEADS).train())
    for name, gradient in exact[2].items():
        size = gradient.norm()
        error, other = ((found[2][name] - gradient).norm() / size for found in (turns, plain))
        assert error < 1.3 * other + 1e-3, name
        assert turns[2][name].dtype == torch.float32


def test_adapters() -> None:
    model = tiny_model(HEADS)
    add_lora(model, rank=2)
    for name, tensor in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(tensor, std=0.1)
    plain, turns = both(model)
    assert any(".lora_A." in name for name in plain[2])
    assert_equal(plain, turns)


def test_after_head_0_the_others_weights_follow(taken: list[int]) -> None:
    model = tiny_model(HEADS, value_head=True).train()
    uniform = (LABELS[..., 0] != -100).float()

    def weigh(value: Tensor, _: None, ce_0: Tensor) -> Tensor:
        kept = ce_0 > ce_0[LABELS[..., 0] != -100].median()
        return (value.detach() * torch.where(kept, 2.0, 0.0))[..., None].repeat(1, 1, HEADS)

    found = []
    for _ in range(2):
        model.zero_grad()
        out = model(IDS, labels=LABELS, weigh=weigh, head_0_weights=uniform)
        out.weighted_ce.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((out.weighted_ce.detach(), out.ce, gradients))
        model.checkpoint_activations("heads")
    assert_equal(*found)
    assert len(taken) == 1


def test_one_head_and_weights_of_zero() -> None:
    assert_equal(*both_of_one_head())
    model = tiny_model(HEADS).train()
    model.checkpoint_activations("heads")
    out = model(IDS, labels=LABELS, weigh=lambda *_: torch.zeros(LABELS.shape))
    out.weighted_ce.backward()
    assert not any(p.grad.any() for p in model.parameters())


def both_of_one_head() -> tuple[Any, Any]:
    found = []
    model = tiny_model(1).train()
    for _ in range(2):
        model.zero_grad()
        out = model(IDS, labels=LABELS[..., :1], weigh=lambda *_: WEIGHTS[..., :1])
        out.weighted_ce.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        found.append((out.weighted_ce.detach(), out.ce, gradients))
        model.checkpoint_activations("heads")
    return found[0], found[1]


def test_every_head_runs_once_and_alone() -> None:
    model = tiny_model(HEADS).train()
    model.checkpoint_activations("heads")
    events: list[str] = []
    for k, head in enumerate([model.backbone.model.layers[-1], *model.heads]):
        head.register_forward_hook(lambda *_, k=k: events.append(f"forward {k}"))
        head.register_full_backward_hook(lambda *_, k=k: events.append(f"backward {k}"))
    loss = model(IDS, labels=LABELS, weigh=lambda *_: WEIGHTS).weighted_ce
    assert events == [f"{what} {k}" for k in range(HEADS) for what in ("forward", "backward")]
    assert all(p.grad is None for p in model.parameters())
    loss.backward(retain_graph=True)
    assert len(events) == 2 * HEADS
    with pytest.raises(RuntimeError, match="one backward"):
        loss.backward()


def test_weights_after_the_loss_and_evaluation_take_no_turns(taken: list[int]) -> None:
    model = tiny_model(HEADS).train()
    model.checkpoint_activations("heads")
    runs: list[int] = []
    model.heads[1].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    expected = step(tiny_model(HEADS).train())
    (3 * model(IDS, labels=LABELS).ce * WEIGHTS).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[2][name], rtol=1e-4, atol=1e-5)
    assert len(runs) == 2  # recomputed
    with torch.no_grad():
        model(IDS, labels=LABELS, weigh=lambda *_: WEIGHTS)
    model.eval()(IDS, labels=LABELS, weigh=lambda *_: WEIGHTS)
    assert not taken


def test_another_input_that_learns_keeps_the_heads_together(taken: list[int]) -> None:
    """A decoder that passes on something learned besides hidden states, as with inputs for each layer."""
    model = tiny_model(2).train()
    decoder, scale = model.backbone.model, torch.nn.Parameter(torch.ones(()))

    def learned(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        cos, sin = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": (cos * scale, sin)}

    decoder.layers[-1].register_forward_pre_hook(learned, with_kwargs=True)
    found = []
    for _ in range(2):
        scale.grad = None
        model(IDS, labels=LABELS[..., :2], weigh=lambda *_: WEIGHTS[..., :2]).weighted_ce.backward()
        found.append(scale.grad.clone())
        model.checkpoint_activations("heads")
    assert found[0] != 0
    torch.testing.assert_close(found[0], found[1])
    assert not taken


@pytest.mark.parametrize("name", list(algorithms()))
def test_training_by_every_algorithm_has_the_same_losses(
    tmp_path: Path, name: str, taken: list[int]
) -> None:
    losses = []
    for turns in (False, True):
        algorithm = algorithms()[name]()
        model = model_for(algorithm)
        if turns:
            model.checkpoint_activations("heads")
        order = np.arange(32) % 16
        trainer, logs = trainer_for(
            tmp_path / str(turns), algorithm, model, tiny_data(), order, micro=4, accumulation=2
        )
        trainer.train()
        losses.append([log["train/loss"] for log in logs])
    assert len(taken) == (0 if algorithm.uses_ce == "all" else 8)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """DistributedDataParallel, and FSDP2 around the whole or around each layer."""
    out = tmp_path / "gradients.pt"
    on_two_processes(Path(__file__).parent / "turns_on_two.py", str(out))
    for kind, found in torch.load(out, weights_only=True).items():
        assert found.pop("turns") == (kind != "layers"), kind
        model = tiny_model(HEADS).train()
        expected = step(model)[2]
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
