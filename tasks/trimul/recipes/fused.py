"""Two Triton kernels around a batch of matrix products: norm, projections and gates before it, norm and gate after."""

if __name__ == "__main__":  # as a harness: all below this block is the submission
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    submission = Path(__file__).read_text(encoding="utf-8").partition("\n# submission.py\n")[2]
    (parser.parse_args().working_dir / "submission.py").write_text(submission, encoding="utf-8")
    raise SystemExit

# submission.py
import torch
import triton
import triton.language as tl

EPSILON = 1e-5  # of both norms
HALF = True
ROWS = 64
CHUNK = 32
PROGRAMS = 0
WARPS = 8


@triton.jit
def project(
    x, mask, norm_weight, norm_bias, weight, sides, gate, rows, square, dim, epsilon,
    HIDDEN: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """LayerNorm of ROWS rows of x [rows, dim], then by program_id(1): left, right (masked, gated, written as
    sides[side, batch, hidden, square]) or the output's gate [rows, hidden]."""
    side = tl.program_id(1)
    hidden = tl.arange(0, HIDDEN)
    for block in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        total = tl.zeros((ROWS,), tl.float32)
        squares = tl.zeros((ROWS,), tl.float32)
        for start in range(0, dim, CHUNK):
            column = start + tl.arange(0, CHUNK)
            there = inside[:, None] & (column < dim)[None, :]
            part = tl.load(x + row[:, None] * dim + column[None, :], mask=there, other=0.0)
            total += tl.sum(part, 1)
            squares += tl.sum(part * part, 1)
        mean = total / dim
        scale = tl.rsqrt(squares / dim - mean * mean + epsilon)
        values = tl.zeros((ROWS, HIDDEN), tl.float32)
        gates = tl.zeros((ROWS, HIDDEN), tl.float32)
        for start in range(0, dim, CHUNK):
            column = start + tl.arange(0, CHUNK)
            known = column < dim
            part = tl.load(x + row[:, None] * dim + column[None, :], mask=inside[:, None] & known[None, :], other=0.0)
            stretch = tl.load(norm_weight + column, mask=known, other=0.0)
            shift = tl.load(norm_bias + column, mask=known, other=0.0)
            normal = ((part - mean[:, None]) * scale[:, None] * stretch[None, :] + shift[None, :]).to(KIND)
            place = weight + hidden[None, :] * dim + column[:, None]
            if side < 2:
                of_value = tl.load(place + side * HIDDEN * dim, mask=known[:, None], other=0.0)
                values = tl.dot(normal, of_value, values, input_precision="tf32")
            of_gate = tl.load(place + (2 + side) * HIDDEN * dim, mask=known[:, None], other=0.0)
            gates = tl.dot(normal, of_gate, gates, input_precision="tf32")
        gates = tl.sigmoid(gates)
        if side < 2:
            seen = tl.load(mask + row, mask=inside, other=0).to(tl.float32)
            made = tl.trans(values * gates * seen[:, None])
            at = (row // square) * HIDDEN * square + row % square
            first = sides + side * rows * HIDDEN
            tl.store(first + hidden[:, None] * square + at[None, :], made.to(KIND), mask=inside[None, :])
        else:
            tl.store(gate + row[:, None] * HIDDEN + hidden[None, :], gates.to(KIND), mask=inside[:, None])


@triton.jit
def finish(
    summed, gate, norm_weight, norm_bias, weight, out, rows, square, dim, epsilon,
    HIDDEN: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """LayerNorm over the channels of summed [batch, hidden, square], gated, projected to out [rows, dim]."""
    hidden = tl.arange(0, HIDDEN)
    for block in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        at = (row // square) * HIDDEN * square + row % square
        part = tl.load(summed + hidden[:, None] * square + at[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
        part = part - (tl.sum(part, 0) / HIDDEN)[None, :]
        part = part * tl.rsqrt(tl.sum(part * part, 0) / HIDDEN + epsilon)[None, :]
        part = part * tl.load(norm_weight + hidden)[:, None] + tl.load(norm_bias + hidden)[:, None]
        gates = tl.load(gate + row[:, None] * HIDDEN + hidden[None, :], mask=inside[:, None], other=0.0)
        normal = (tl.trans(part) * gates).to(KIND)
        for start in range(0, dim, CHUNK):
            column = start + tl.arange(0, CHUNK)
            known = column < dim
            of_out = tl.load(weight + column[None, :] * HIDDEN + hidden[:, None], mask=known[None, :], other=0.0)
            made = tl.dot(normal, of_out, input_precision="tf32")
            there = inside[:, None] & known[None, :]
            tl.store(out + row[:, None] * dim + column[None, :], made, mask=there)


def custom_kernel(data):
    x, mask, weights, config = data
    batch, n, _, dim = x.shape
    hidden, square = config["hidden_dim"], n * n
    rows = batch * square
    kind, in_kernel = (torch.float16, tl.float16) if HALF else (torch.float32, tl.float32)
    stacked = torch.cat(
        [
            weights["left_proj.weight"],
            weights["right_proj.weight"],
            weights["left_gate.weight"],
            weights["right_gate.weight"],
            weights["out_gate.weight"],
        ]
    ).to(kind)
    sides = torch.empty((2, batch * hidden, n, n), dtype=kind, device=x.device)
    gate = torch.empty((rows, hidden), dtype=kind, device=x.device)
    out = torch.empty_like(x)
    blocks = triton.cdiv(rows, ROWS)
    programs = min(blocks, PROGRAMS) if PROGRAMS else blocks
    shared = {"HIDDEN": hidden, "ROWS": ROWS, "CHUNK": CHUNK, "KIND": in_kernel, "num_warps": WARPS}
    project[(programs, 3)](
        x,
        mask,
        weights["norm.weight"],
        weights["norm.bias"],
        stacked,
        sides,
        gate,
        rows,
        square,
        dim,
        EPSILON,
        **shared,
    )
    torch.set_float32_matmul_precision("high")
    summed = torch.bmm(sides[0], sides[1].transpose(1, 2))
    of_out = weights["to_out.weight"].to(kind)
    norm = weights["to_out_norm.weight"], weights["to_out_norm.bias"]
    finish[(programs,)](summed, gate, *norm, of_out, out, rows, square, dim, EPSILON, **shared)
    return out
