"""Losses against plain loops and torch's own cross entropy, values and gradients."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import child_environment
from wmtp.losses import (
    chunked,
    cross_entropy,
    horizon_labels,
    linear_cross_entropy,
    linear_cross_entropy_and_entropy,
    weighted_linear_cross_entropy,
)


def test_horizon_labels_by_hand() -> None:
    labels = torch.tensor([[-100, 11, 12, 13]])
    assert horizon_labels(labels, 3).tolist() == [
        [[11, 12, 13], [12, 13, -100], [13, -100, -100], [-100, -100, -100]]
    ]


def test_horizon_labels_do_not_cross_documents() -> None:
    labels = torch.arange(10, 15)[None]
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    found = horizon_labels(labels, 2, documents)
    assert found[0].tolist() == [[11, -100], [-100, -100], [13, 14], [14, -100], [-100, -100]]


@pytest.mark.parametrize("num_heads", [1, 4, 9])
def test_horizon_labels_against_loops(num_heads: int) -> None:
    labels = torch.randint(0, 50, (3, 6))
    found = horizon_labels(labels, num_heads)
    for b in range(3):
        for t in range(6):
            for k in range(num_heads):
                want = labels[b, t + k + 1] if t + k + 1 < 6 else -100
                assert found[b, t, k] == want


def test_horizon_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        horizon_labels(torch.zeros(1, 3, dtype=torch.long), 0)


def inputs(num: int, width: int, vocab: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num)
    hidden = torch.randn(num, width, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=dtype, generator=generator, requires_grad=True)
    bias = torch.randn(vocab, dtype=dtype, generator=generator, requires_grad=True)
    labels = torch.randint(0, vocab, (num,), generator=generator)
    labels[::4] = -100
    grad = torch.rand(num, dtype=dtype, generator=generator)
    grad[::3] = 0
    return hidden, weight, bias, labels, grad


def plain_cross_entropy(hidden, weight, labels, bias=None, logit_scale=1.0, softcap=None):
    logits = logit_scale * F.linear(hidden, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("chunk", [1, 300, 1 << 23])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.7, None), (1.0, 3.0), (1.7, 2.0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_both_losses_equal_torch(
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    scale: float,
    softcap: float | None,
    with_bias: bool,
) -> None:
    monkeypatch.setattr(chunked, "_CHUNK_ELEMENTS", chunk)
    hidden, weight, bias, labels, grad = inputs(53, 7, 19)
    options = {"bias": bias if with_bias else None, "logit_scale": scale, "softcap": softcap}
    want = plain_cross_entropy(hidden, weight, labels, **options)
    parameters = [hidden, weight, bias] if with_bias else [hidden, weight]
    expected = torch.autograd.grad(2 * (want * grad).sum(), parameters)

    ce = linear_cross_entropy(hidden, weight, labels, **options)
    torch.testing.assert_close(ce, want)
    found = torch.autograd.grad(2 * (ce * grad).sum(), parameters)
    torch.testing.assert_close(found, expected)

    total, ce = weighted_linear_cross_entropy(hidden, weight, labels, grad, **options)
    torch.testing.assert_close(ce, want.detach())
    torch.testing.assert_close(total, (want * grad).sum())
    assert not ce.requires_grad
    torch.testing.assert_close(torch.autograd.grad(2 * total, parameters), expected)


@pytest.mark.parametrize("chunk", [1, 300, 1 << 23])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_entropy_comes_with_the_same_losses(
    monkeypatch: pytest.MonkeyPatch, chunk: int, softcap: float | None
) -> None:
    monkeypatch.setattr(chunked, "_CHUNK_ELEMENTS", chunk)
    hidden, weight, bias, labels, grad = inputs(53, 7, 19)
    options = {"bias": bias, "softcap": softcap}
    ce, entropy = linear_cross_entropy_and_entropy(hidden, weight, labels, **options)
    alone = linear_cross_entropy(hidden, weight, labels, **options)
    assert torch.equal(ce, alone)
    gradients = [torch.autograd.grad((c * grad).sum(), [hidden, weight]) for c in (ce, alone)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    logits = F.linear(hidden, weight, bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    want = torch.distributions.Categorical(logits=logits).entropy() * (labels != -100)
    torch.testing.assert_close(entropy, want.detach())
    assert not entropy.requires_grad


def losses_of(hidden, weight, labels, grad):
    """Return the weighted sum by each of the two losses."""
    return {
        "unknown": (linear_cross_entropy(hidden, weight, labels) * grad).sum(),
        "known": weighted_linear_cross_entropy(hidden, weight, labels, grad)[0],
    }


@pytest.mark.parametrize("name", ["unknown", "known"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_gradient_is_no_worse_than_that_of_torch(
    name: str, dtype: torch.dtype, size: float
) -> None:
    hidden, weight, _, labels, grad = inputs(400, 32, 300, torch.float64)
    hidden, weight, grad = (x.detach().to(dtype) for x in (hidden, weight, grad * size))
    grad = grad.float()

    def gradients(loss, kind):
        tensors = [x.to(kind).requires_grad_() for x in (hidden, weight)]
        return torch.autograd.grad(loss(*tensors), tensors)

    def plain(h, w):
        # What a model does in this precision: logits in it, the loss in float32 at least.
        logits = (h @ w.T).to(torch.promote_types(h.dtype, torch.float32))
        return (F.cross_entropy(logits, labels, reduction="none") * grad).sum()

    exact = gradients(plain, torch.float64)
    theirs = gradients(plain, dtype)
    ours = gradients(lambda h, w: losses_of(h, w, labels, grad)[name], dtype)
    for want, their, our in zip(exact, theirs, ours, strict=True):
        assert our.dtype == dtype
        their_error = (their.double() - want).norm()
        assert (our.double() - want).norm() <= 1.1 * their_error


@pytest.mark.parametrize("name", ["unknown", "known"])
def test_autocast_keeps_dtypes_and_values(name: str) -> None:
    hidden, weight, _, labels, grad = inputs(40, 16, 30, torch.float32)
    want = losses_of(hidden, weight, labels, grad)[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses_of(hidden, weight, labels, grad)[name]
    loss.backward()  # outside autocast, as trainers do
    torch.testing.assert_close(loss, want)
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


# The tracer itself looks at .grad of an inner tensor, and warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["unknown", "known"])
def test_compiled_code_may_call_the_loss(name: str) -> None:
    hidden, weight, _, labels, grad = inputs(40, 16, 30, torch.float32)

    def step(h, w):
        return losses_of(torch.tanh(h), w, labels, grad)[name] * 3

    want = torch.autograd.grad(step(hidden, weight), [hidden, weight])
    compiled = torch.compile(step, backend="aot_eager")
    found = torch.autograd.grad(compiled(hidden, weight), [hidden, weight])
    torch.testing.assert_close(found, want)


def test_without_gradient_nothing_is_formed() -> None:
    hidden, weight, _, labels, grad = inputs(20, 4, 9)
    with torch.no_grad():
        total, ce = weighted_linear_cross_entropy(hidden, weight, labels, grad)
    assert not total.requires_grad
    want = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(ce, want.detach())


def test_a_second_backward_of_the_known_loss_is_refused() -> None:
    hidden, weight, _, labels, grad = inputs(8, 4, 9)
    total, _ = weighted_linear_cross_entropy(hidden, weight, labels, grad)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        total.backward()


def test_strided_and_empty_inputs() -> None:
    hidden, weight, _, labels, grad = inputs(20, 4, 9)
    strided = torch.stack([hidden, hidden], dim=2)[:, :, 1]
    for name, loss in losses_of(strided, weight, labels, grad).items():
        torch.testing.assert_close(loss, losses_of(hidden, weight, labels, grad)[name])
    for loss in losses_of(hidden[:0], weight, labels[:0], grad[:0]).values():
        assert loss == 0
        loss.backward()


@pytest.mark.parametrize("name", ["unknown", "known"])
def test_all_ignored_is_a_finite_zero(name: str) -> None:
    hidden, weight, _, labels, grad = inputs(8, 4, 9)
    loss = losses_of(hidden, weight, torch.full_like(labels, -100), grad)[name]
    assert loss == 0
    loss.backward()
    assert not hidden.grad.any()
    assert not weight.grad.any()


@pytest.mark.parametrize("name", ["unknown", "known"])
def test_frozen_unembedding_gets_no_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, labels, grad = inputs(8, 4, 9)
    formed = []
    plain = chunked._Gradients.__init__

    def keep(self, *args):
        plain(self, *args)
        formed.append(self)

    monkeypatch.setattr(chunked._Gradients, "__init__", keep)
    losses_of(hidden, weight.detach(), labels, grad)[name].backward()
    assert hidden.grad.abs().sum() > 0
    assert all(gradients.weight is None for gradients in formed)


def test_logits_of_rows_without_gradient_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, labels, _ = inputs(40, 4, 9)
    keep = torch.zeros(40, dtype=torch.float64)
    keep[[1, 2, 4, 5]] = 1  # row 4 is ignored, as 10 rows are
    rows = {"logits": 0, "gradient": 0}
    for name in rows:
        plain = getattr(chunked._Projection, name)

        def count(self, first, *rest, plain=plain, name=name):
            rows[name] += len(first)
            return plain(self, first, *rest)

        monkeypatch.setattr(chunked._Projection, name, count)
    (linear_cross_entropy(hidden, weight, labels) * keep).sum().backward()
    assert rows == {"logits": 30 + 3, "gradient": 3}
    weighted_linear_cross_entropy(hidden, weight, labels, keep)[0].backward()
    assert rows == {"logits": 30 + 3 + 30, "gradient": 3 + 3}


@pytest.mark.parametrize("form", [{}, {"logit_scale": 0.5, "softcap": 3.0}])
@pytest.mark.parametrize(("part", "elements"), [(512, 1 << 19), (32, 32 * 20), (300, 1 << 19)])
def test_backends_differ_by_rounding_alone(
    monkeypatch: pytest.MonkeyPatch, form: dict[str, float], part: int, elements: int
) -> None:
    monkeypatch.setattr(chunked, "_PART_ROWS", part)
    monkeypatch.setattr(chunked, "_PART_ELEMENTS", elements)
    hidden, weight, bias, labels, grad = inputs(400, 48, 70, torch.float32)
    found = {}
    for backend in ("torch", "onednn"):
        options = {"bias": bias, "backend": backend, **form}
        try:
            ce = linear_cross_entropy(hidden, weight, labels, **options)
        except ValueError as error:
            pytest.skip(str(error))
        total, _ = weighted_linear_cross_entropy(hidden, weight, labels, grad, **options)
        for name, loss in (("unknown", (ce * grad).sum()), ("known", total)):
            found[backend, name] = torch.autograd.grad(loss, [hidden, weight, bias])
    for name in ("unknown", "known"):
        torch.testing.assert_close(found["torch", name], found["onednn", name])


def test_backends_that_cannot_run_say_why() -> None:
    hidden, weight, _, labels, _ = inputs(8, 4, 9)
    with pytest.raises(ValueError, match="cut-cross-entropy: its kernels need a GPU, .* on cpu"):
        linear_cross_entropy(hidden, weight, labels, backend="cut-cross-entropy")


def test_peers_leave_out_what_the_first_targets_give_no_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same sums as our own code, by any kernel; here plain torch stands for it."""
    rows = []

    def kernel(hidden, weight, bias, labels, softcap):
        rows.append(len(hidden))
        return plain_cross_entropy(hidden, weight, labels, bias=bias)

    hidden, weight, _, labels, _ = inputs(24, 16, 40, torch.float32)
    first = torch.ones(8)

    def rest(ce):
        return (ce > ce.median()).float().repeat(2)

    found = {}
    for backend in ("torch", "liger"):
        if backend == "liger":
            monkeypatch.setattr(cross_entropy, "resolve", lambda *_: "liger")
            monkeypatch.setattr(cross_entropy, "peer_kernel", lambda _: kernel)
        total, ce = weighted_linear_cross_entropy(hidden, weight, labels, first, weigh_rest=rest)
        found[backend] = [total, ce, *torch.autograd.grad(total, [hidden, weight])]
    torch.testing.assert_close(found["torch"], found["liger"])
    assert rows[0] + rows[1] == int((found["liger"][1] != 0).sum()) < 24


PEER = """
import torch
from tests.test_losses import inputs, plain_cross_entropy
from wmtp.losses import linear_cross_entropy, weighted_linear_cross_entropy
hidden, weight, bias, labels, grad = inputs(24, 16, 40, torch.float32)
options = {"bias": bias, "logit_scale": 0.5}
exact = (plain_cross_entropy(hidden, weight, labels, **options) * grad).sum()
want = torch.autograd.grad(exact, [hidden, weight, bias])
options["backend"] = "liger"
ce = (linear_cross_entropy(hidden, weight, labels, **options) * grad).sum()
known = weighted_linear_cross_entropy(hidden, weight, labels, grad, **options)[0]
for loss in (ce, known):
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(torch.autograd.grad(loss, [hidden, weight, bias]), want)
print("equal")
"""


def test_liger_gives_the_same() -> None:
    if find_spec("liger_kernel") is None or find_spec("triton") is None:
        pytest.skip("Liger and triton are not installed")
    environment = child_environment() | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEER], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("wrong", [-1, 9])
def test_a_label_outside_the_vocabulary_is_refused(wrong: int) -> None:
    hidden, weight, _, labels, _ = inputs(8, 4, 9)
    labels[3] = wrong
    with pytest.raises(ValueError, match=f"label {wrong} is outside the vocabulary of 9"):
        linear_cross_entropy(hidden, weight, labels)


# Here shapes in signatures are checked; elsewhere the functions check them.
MISFITS = """
import torch
from wmtp.losses import weighted_linear_cross_entropy
hidden, weight = torch.randn(8, 4), torch.randn(9, 4)
labels, weights = torch.zeros(8, dtype=torch.long), torch.ones(8)
for given in (
    (hidden, weight, labels[1:], weights[1:], None),
    (hidden, weight[:, 1:], labels, weights, None),
    (hidden, weight, labels, weights[:1], None),
    (hidden, weight, labels, weights, torch.zeros(1)),
    (hidden, weight, labels.float(), weights, None),
):
    try:
        weighted_linear_cross_entropy(*given[:4], bias=given[4])
    except ValueError as error:
        print(error)
"""


def test_inputs_that_do_not_fit_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISFITS],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == [
        "hidden [N,D] is [8, 4], which does not fit labels [N] and weight [V,D]: [7] and [9, 4]",
        "hidden [N,D] is [8, 4], which does not fit labels [N] and weight [V,D]: [8] and [9, 3]",
        "target_weights [N] is [1], which does not fit labels [N]: [8]",
        "bias [V] is [1], which does not fit weight [V,D]: [9, 4]",
        "labels must be int64 or int32, found torch.float32",
    ], done.stderr
