"""The judge's own triangle multiplicative update (outgoing), its inputs, and what is equal. Never in the sandbox.

Written from the definition: LayerNorm; projections left and right, masked and gated; sum over k of left[i, k] *
right[j, k]; LayerNorm; output gate; projection. B batch, N length, C dim, H hidden.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cases import Case

if TYPE_CHECKING:
    import torch

EPSILON = 1e-5  # of both LayerNorms
TOLERANCE = 2e-2  # absolute and relative
Fields = dict[str, "torch.Tensor"]


def weights_of(case: Case) -> dict[str, tuple[tuple[int, ...], float]]:
    """Name -> (shape, standard deviation)."""
    into = ((case.hidden, case.dim), 1 / math.sqrt(case.hidden))
    return {
        "norm.weight": ((case.dim,), 1.0),
        "norm.bias": ((case.dim,), 1.0),
        "left_proj.weight": into,
        "right_proj.weight": into,
        "left_gate.weight": into,
        "right_gate.weight": into,
        "out_gate.weight": into,
        "to_out_norm.weight": ((case.hidden,), 1.0),
        "to_out_norm.bias": ((case.hidden,), 1.0),
        "to_out.weight": ((case.dim, case.hidden), 1 / math.sqrt(case.dim)),
    }


def make_input(case: Case, seed: int, device: str) -> Fields:
    """Make input [B, N, N, C], mask [B, N, N] and the weights, all from `seed`.

    All are float32, except a mask that masks: int64, as the competition has it.
    """
    import torch

    generator = torch.Generator(device=device).manual_seed(seed)

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    square = (case.batch, case.n, case.n)
    if case.distribution == "cauchy":  # of scale 2, from uniform numbers
        x = torch.rand((*square, case.dim), generator=generator, device=device)
        x.sub_(0.5).mul_(math.pi).tan_().mul_(2)
    else:
        x = normal((*square, case.dim))
    mask = torch.ones(square, device=device)
    if case.masked:
        mask = torch.randint(0, 2, square, generator=generator, device=device)
    weights = {name: normal(shape) * spread for name, (shape, spread) in weights_of(case).items()}
    return {"input": x, "mask": mask, **weights}


def trimul(fields: Fields) -> torch.Tensor:
    """Return [B, N, N, C] in full float32 precision."""
    import torch
    from torch.nn.functional import layer_norm, linear

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        weight = {name.removesuffix(".weight"): value for name, value in fields.items()}
        x = layer_norm(fields["input"], weight["norm"].shape, weight["norm"], fields["norm.bias"], EPSILON)
        mask = fields["mask"].unsqueeze(-1)
        left_side = linear(x, weight["left_proj"]) * mask * linear(x, weight["left_gate"]).sigmoid()
        right_side = linear(x, weight["right_proj"]) * mask * linear(x, weight["right_gate"]).sigmoid()
        gate = linear(x, weight["out_gate"]).sigmoid()
        summed = torch.einsum("bikd,bjkd->bijd", left_side, right_side)
        del left_side, right_side, x
        hidden = weight["to_out_norm"].shape
        summed = layer_norm(summed, hidden, weight["to_out_norm"], fields["to_out_norm.bias"], EPSILON)
        return linear(summed * gate, weight["to_out"])
    finally:
        torch.set_float32_matmul_precision(before)


def mismatch(got: torch.Tensor, expected: torch.Tensor) -> str:
    """Return how the output `got` differs, in a few words; empty where it is right.

    Each element must be within the tolerance, NaN and infinities where they belong.
    """
    import torch

    for what, where in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        if not torch.equal(where(got), where(expected)):
            return f"{what} in {int(where(got).sum())} elements, expected in {int(where(expected).sum())}"
    finite = torch.isfinite(expected)
    error = torch.where(finite, (got - expected).abs(), 0)
    wrong = int((error > torch.where(finite, TOLERANCE + TOLERANCE * expected.abs(), 1)).sum())
    return f"{wrong} of {expected.numel()} elements differ, the largest by {float(error.max()):.3g}" if wrong else ""
