"""rho1-wmtp: learn the tokens whose loss exceeds a reference model's (Lin et al. 2024)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.recipe import Section
from wmtp.weighting import align_to_heads, normalise_per_sequence, top_fraction


def rho1_weights(
    ce: Float[Tensor, "B S H"],
    ref_ce: Float[Tensor, "B S"],
    valid: Bool[Tensor, "B S H"],
    keep: float = 0.6,
    always_keep_head_0: bool = False,
    min_ce_diff: float | None = None,
) -> Float[Tensor, "B S H"]:
    """Return the weights of selective language modelling, per head.

    ::

        excess[b, t, k] = ce[b, t, k] - ref_ce[b, t + k + 1]         (nats, signed)
        w = 1 / (share kept) for the largest `keep` share of excess, else 0

    `ce` is the policy's, `ref_ce` the reference's, stored by token. Selection is within each sequence
    and head, for a further head sees less context than the reference and is compared only with itself.
    Kept weights are equal and average 1 over the valid targets, which is the paper's division by the
    number kept (arXiv:2404.07965, equations 3 to 5). `always_keep_head_0` leaves head 0 uniform;
    `min_ce_diff` never keeps a target whose excess is below it (a sequence and head may lose all).
    """
    excess = excess_loss(ce, ref_ce)
    chosen = top_fraction(excess, valid, keep)
    if min_ce_diff is not None:
        chosen &= excess >= min_ce_diff
    if always_keep_head_0:
        chosen[:, :, 0] = valid[:, :, 0]
    return normalise_per_sequence(chosen.float(), valid)


def excess_loss(ce: Float[Tensor, "B S H"], ref_ce: Float[Tensor, "B S"]) -> Float[Tensor, "B S H"]:
    """Return how far the loss of every target exceeds the reference's, nats, signed and detached."""
    return ce.detach() - align_to_heads(ref_ce, ce.shape[2])


class Rho1(Algorithm["Rho1.Config"]):
    """Keep the targets with the largest loss excess over a reference trained on clean data."""

    class Config(Section):
        """Settings of selective language modelling."""

        reference: str = Field(
            description="Checkpoint with the same tokenizer, trained on clean data."
        )
        keep: float = Field(0.6, gt=0, le=1, description="Share of valid targets kept per head.")
        always_keep_head_0: bool = Field(
            True, description="Leave the next-token head uniform; false is the paper."
        )
        min_ce_diff: float | None = Field(
            None, description="Targets whose excess (nats) is below this are never kept."
        )

    needs = frozenset({"ref_ce"})

    @property
    def reference(self) -> str:
        """The reference checkpoint of the recipe."""
        return self.config.reference

    def weigh(self, batch: Batch) -> Weighting:
        """Return 1 / keep at the chosen targets and 0 at the others."""
        assert batch.ce is not None
        assert batch.ref_ce is not None
        return Weighting(
            rho1_weights(
                batch.ce,
                batch.ref_ce,
                batch.valid,
                self.config.keep,
                self.config.always_keep_head_0,
                self.config.min_ce_diff,
            )
        )

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return the excess loss of every target."""
        assert batch.ce is not None
        assert batch.ref_ce is not None
        return {"excess": excess_loss(batch.ce, batch.ref_ce)}
