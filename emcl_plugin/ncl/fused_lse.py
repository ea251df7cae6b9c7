"""Log-sum-exp over the inner products of vectors, in one GPU kernel: scores stay in registers.

Sums are kept online, as in FlashAttention (Dao et al., NeurIPS 2022, arXiv 2205.14135, algorithm
1): of every row the largest exponent so far, and the sum of exponentials below it.
"""

# without annotations from __future__: Triton 3.0 reads them, and not as strings

import torch
import triton
import triton.language as tl

TILES = {"bfloat16": (128, 128, 64), "tf32": (128, 128, 32), "tf32x3": (128, 64, 32)}
"""Rows of a program, and columns and depth of what it multiplies with them at a time: the largest
for which ptxas spills no register on Ampere, Hopper and Blackwell."""
LAUNCH = {"num_warps": 8, "num_stages": 3}  # less than 99 KiB of shared memory in each
PROGRAMS = 1024
"""At least about as many, so that a GPU of some hundred processors is busy to the end."""

_LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def row_lse_kernel(  # type: ignore[no-untyped-def]
    x, y, bias, out, scale, n_x, n_y, dimension, span,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of ROWS rows and ``span`` columns: log2 sum_j 2^(scale x_i . y_j + bias_j) to ``out``."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.program_id(1) * span
    depths = tl.arange(0, DEPTH)
    x_rows = x + rows.to(tl.int64)[:, None] * dimension
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(begin, tl.minimum(begin + span, n_y), COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        y_columns = y + columns.to(tl.int64)[None, :] * dimension
        products = tl.zeros([ROWS, COLUMNS], tl.float32)
        for depth in range(0, dimension, DEPTH):
            here = depth + depths
            left = tl.load(
                x_rows + here[None, :],
                mask=(rows[:, None] < n_x) & (here[None, :] < dimension),
                other=0.0,
            )
            right = tl.load(
                y_columns + here[:, None],
                mask=(columns[None, :] < n_y) & (here[:, None] < dimension),
                other=0.0,
            )
            products = tl.dot(left, right, products, input_precision=PRECISION)
        exponents = products * scale
        exponents += tl.load(bias + columns, mask=columns < n_y, other=float("-inf"))[None, :]
        above = tl.maximum(largest, tl.max(exponents, 1))
        total = total * tl.exp2(largest - above) + tl.sum(tl.exp2(exponents - above[:, None]), 1)
        largest = above
    tl.store(
        out + tl.program_id(1).to(tl.int64) * n_x + rows,
        largest + tl.log2(total),
        mask=rows < n_x,
    )


def row_lse(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor, scale: float) -> torch.Tensor:
    """log sum_j exp(scale x_i . y_j + bias_j), (n_x,) float32.

    Parameters
    ----------
    x, y : (n_x, d), (n_y, d) float32 or bfloat16
        On a GPU, contiguous. Products are summed in float32; those of float32 are made of three
        of TF32, which is as good, or of one where torch is allowed to use it.
    bias : (n_y,) float32
        Finite.
    scale : float
    """
    products = "tf32" if tf32_is_allowed() else "tf32x3"
    if x.dtype == torch.bfloat16:
        products = "bfloat16"
    if not x.is_cuda:  # Triton's interpreter has no products of bfloat16
        x, y = x.float(), y.float()
    tile = TILES[products]
    n_x, n_y = len(x), len(y)
    rows, columns = triton.cdiv(n_x, tile[0]), triton.cdiv(n_y, tile[1])
    span = triton.cdiv(columns, triton.cdiv(PROGRAMS, rows)) * tile[1]
    splits = triton.cdiv(n_y, span)
    out = torch.empty(splits, n_x, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        row_lse_kernel[rows, splits](
            x, y, bias * _LOG2_E, out, scale * _LOG2_E, n_x, n_y, x.shape[1], span,
            *tile, "tf32x3" if products == "tf32x3" else "tf32", **LAUNCH,
        )  # fmt: skip
    return torch.logsumexp(out / _LOG2_E, 0)


def tf32_is_allowed() -> bool:
    """Whether torch may multiply float32 matrices by TF32; by default it may not."""
    cublas = torch.backends.cuda.matmul
    if hasattr(cublas, "fp32_precision"):  # torch 2.9 on: the older name raises once this is set
        return bool(cublas.fp32_precision == "tf32")
    return bool(cublas.allow_tf32)
