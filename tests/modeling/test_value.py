"""The value head that sums up evidence: against the sum written out, causal, the same packed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import VOCAB, tiny_model
from wmtp.losses import horizon_labels
from wmtp.modeling.mtp import MTPModel
from wmtp.modeling.value import running_sum

LENGTH, PROMPT = 12, 4


@pytest.fixture(scope="module")
def model() -> MTPModel:
    made = tiny_model(num_heads=2)
    made.add_value_head("evidence", train_trunk=True)
    torch.nn.init.normal_(made.value_head.out.weight)
    torch.nn.init.normal_(made.value_head.prior)
    torch.nn.init.constant_(made.value_head.slope, -0.1)
    return made.eval()


def sample(seed: int = 0, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and labels; the first `PROMPT` tokens are not learned."""
    ids = torch.randint(3, VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))
    learned = ids.clone()
    learned[:, :PROMPT] = -100
    return ids, horizon_labels(learned, 2)


def test_value_is_the_sum_of_what_tokens_say(model: MTPModel) -> None:
    ids, labels = sample()
    found = model(ids, labels=labels)
    trunk = model._run(ids, None, None).trunk
    log_p = model.head_logits(ids)[:, :, 0].log_softmax(-1)
    head = model.value_head
    for row in range(2):
        logit = head.prior
        for t in range(LENGTH):
            if t >= PROMPT:
                surprise = -log_p[row, t - 1, ids[row, t]]
                state = torch.cat([head.norm(trunk[row, t]), surprise[None]])
                logit = logit + head.out(head.mlp(state)) + head.slope * surprise
            expected = torch.sigmoid(logit).item()
            assert found.value[row, t].item() == pytest.approx(expected, abs=1e-5)


def test_value_does_not_see_what_follows(model: MTPModel) -> None:
    ids, labels = sample()
    changed = ids.clone()
    changed[:, 9:] = 3
    first = model(ids, labels=labels).value
    other = labels.clone()
    other[:, 8:, 0] = 3  # head 0 predicts the tokens from 9 on
    second = model(changed, labels=other).value
    torch.testing.assert_close(first[:, :9], second[:, :9])
    assert not torch.allclose(first[:, 9:], second[:, 9:])


def test_gradients_reach_trunk_and_head_but_not_the_unembedding_by_surprise(
    model: MTPModel,
) -> None:
    ids, labels = sample()
    model.zero_grad()
    model(ids, labels=labels).value.sum().backward()
    assert model.value_head.mlp[0].weight.grad.abs().sum() > 0
    assert model.value_head.prior.grad.abs().sum() > 0
    assert model.value_head.slope.grad.abs().sum() > 0
    layers = model.backbone.model.layers
    assert layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert layers[-1].mlp.up_proj.weight.grad is None  # head 0's own layer gives surprise alone


def test_sums_begin_anew_with_each_stretch() -> None:
    values = torch.tensor([[1.0, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32]])
    within = torch.tensor([[0, 1, 1, 0, 0, 1], [1, 1, 0, 1, 1, 1]], dtype=torch.bool)
    expected = [[0.0, 2, 6, 0, 0, 32], [1, 3, 0, 8, 24, 56]]
    assert running_sum(values, within).tolist() == expected


def test_documents_of_a_row_are_apart(model: MTPModel) -> None:
    ids, labels = sample()
    alone = model(ids, labels=labels).value
    joined = torch.cat([ids[0], ids[1]])[None]
    positions = torch.arange(LENGTH).repeat(2)[None]
    documents = torch.arange(2).repeat_interleave(LENGTH)[None]
    learned = joined.clone()
    learned[0, :PROMPT] = learned[0, LENGTH : LENGTH + PROMPT] = -100
    packed = horizon_labels(learned, 2, documents)
    found = model(joined, position_ids=positions, labels=packed).value
    torch.testing.assert_close(found.view(2, LENGTH), alone, atol=1e-5, rtol=1e-4)


def test_it_comes_back_from_a_checkpoint(model: MTPModel, tmp_path: Path) -> None:
    ids, labels = sample()
    model.save_pretrained(tmp_path)
    again = MTPModel.from_pretrained(tmp_path).eval()
    assert again.value_head.kind == "evidence"
    torch.testing.assert_close(
        again(ids, labels=labels).value, model(ids, labels=labels).value, atol=0, rtol=0
    )
    assert again(ids).value is None  # which tokens are of a completion, labels say
