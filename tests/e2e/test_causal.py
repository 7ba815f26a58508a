"""Attention whose queries see no later keys computes only the scores that are seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_ir import kernel_rules
from torch.nn import functional as F

import mlcflow
from mlcflow.mlir import affine, scf, walk

Mask = Callable[[int, int], torch.Tensor]
MASKS: dict[str, Mask] = {
    "not seen": lambda m, n: torch.arange(m)[:, None] >= torch.arange(n),
    "compared the other way": lambda m, n: torch.arange(n) <= torch.arange(m)[:, None],
    "added": lambda m, n: torch.where(
        torch.arange(n) > torch.arange(m)[:, None], -torch.finfo(torch.float32).max, 0.0
    ),
}
"""Causal masks, made inside of the model from positions."""

NOT_CAUSAL: dict[str, Mask] = {
    "earlier keys hidden": lambda m, n: torch.arange(m)[:, None] <= torch.arange(n),
    "itself hidden": lambda m, n: torch.arange(m)[:, None] > torch.arange(n),
    "a window": lambda m, n: (
        (torch.arange(m)[:, None] - torch.arange(n) < 40)
        & (torch.arange(m)[:, None] >= torch.arange(n))
    ),
    "discouraged": lambda m, n: torch.where(torch.arange(m)[:, None] >= torch.arange(n), 0.0, -3.0),
}


def skips(exe: mlcflow.Executable) -> int:
    """How many loops end where a minimum says that is not the end of a tile."""
    ends = [
        op.upperBound.owner
        for op in walk(exe.stages["vectors"].operation)
        if isinstance(op, scf.ForOp)
    ]
    return sum(
        not hasattr(e, "arguments") and isinstance(e.opview, affine.AffineMinOp) for e in ends
    )


def agrees(m: int, n: int, mask: Mask | None, heads: int = 2, depth: int = 32) -> int:
    """Compare with float64; gives the number of shortened loops."""

    def model(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        given = mask(m, n)
        return F.scaled_dot_product_attention(
            q, k, v, given if given.dtype == torch.bool else given.to(q.dtype)
        )

    torch.manual_seed(m * n)
    q = torch.randn(heads, m, depth)
    k, v = torch.randn(heads, n, depth), torch.randn(heads, n, depth)
    exe = mlcflow.compile(model, q, k, v, verify=False)
    assert list(kernel_rules(exe).values()) == ["attention"], (
        "the mask is computed where it is used"
    )
    exact = model(q.double(), k.double(), v.double())
    torch.testing.assert_close(exe(q, k, v).double(), exact, rtol=1e-4, atol=1e-5, equal_nan=True)
    return skips(exe)


@pytest.mark.parametrize("sizes", [(512, 512), (300, 512), (700, 512), (513, 512)])
def test_loops_over_keys_end_behind_the_last_query(sizes: tuple[int, int]) -> None:
    assert agrees(*sizes, None) == 5


@pytest.mark.parametrize("mask", MASKS)
def test_masks_that_models_make_of_positions(mask: str) -> None:
    assert agrees(512, 512, MASKS[mask]) == 5


@pytest.mark.parametrize("mask", NOT_CAUSAL)
def test_other_masks_are_applied_to_all_keys(mask: str) -> None:
    assert agrees(512, 512, NOT_CAUSAL[mask]) == 0


@pytest.mark.parametrize(
    ("sizes", "heads", "depth"),
    [
        ((500, 500), 2, 32),  # keys that the steps do not divide
        ((64, 64), 2, 32),  # too few keys
        ((256, 256), 2, 256),  # rows of V as long as there are keys
        ((48, 48), 1, 24),  # all queries in one block
    ],
)
def test_where_nothing_is_skipped(sizes: tuple[int, int], heads: int, depth: int) -> None:
    assert agrees(*sizes, None, heads, depth) == 0


def test_as_many_heads_as_queries() -> None:
    assert agrees(256, 256, None, heads=256, depth=8) == 5


@settings(max_examples=8)
@given(m=st.integers(8, 400), n=st.integers(1, 10), depth=st.sampled_from([8, 20, 64]))
def test_any_number_of_queries(m: int, n: int, depth: int) -> None:
    agrees(m, 64 * n, None, depth=depth)


@settings(max_examples=8)
@given(n=st.integers(8, 400), heads=st.integers(1, 3), depth=st.integers(3, 64))
def test_as_many_queries_as_keys(n: int, heads: int, depth: int) -> None:
    agrees(n, n, None, heads, depth)


def test_keys_behind_the_last_query_may_be_nan() -> None:
    """Within the block of the query they go through, as in PyTorch."""
    q, k, v = (torch.randn(1, 512, 32) for _ in range(3))
    k[:, 256:] = v[:, 256:] = float("nan")
    exe = mlcflow.compile(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        q, k, v, verify=False,
    )  # fmt: skip
    result = exe(q, k, v)
    assert result[:, :192].isfinite().all()
    assert result[:, 256:].isnan().all()
