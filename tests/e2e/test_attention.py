"""Scaled dot-product attention as models call it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import mlcflow
from mlcflow.mlir import walk

ROWS, COLUMNS, DEPTH = 33, 40, 16


def masks() -> dict[str, torch.Tensor | None]:
    """A row of each mask has no key at all."""
    torch.manual_seed(0)
    keep = torch.rand(ROWS, COLUMNS) > 0.3
    keep[5] = False
    added = torch.randn(ROWS, COLUMNS)
    added[7] = -math.inf
    added[8, 3] = -math.inf
    return {"none": None, "boolean": keep, "float": added}


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("scale", [None, 0.3])
def test_masks(mask: str, scale: float | None, pipeline: str) -> None:
    given = masks()[mask]

    def model(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, given, scale=scale)

    q = torch.randn(2, 3, ROWS, DEPTH)
    k, v = torch.randn(2, 3, COLUMNS, DEPTH), torch.randn(2, 3, COLUMNS, DEPTH)
    exe = mlcflow.compile(model, q, k, v, pipeline=pipeline)
    wide = given.double() if mask == "float" else given
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), wide, scale=scale)
    assert (exe(q, k, v) - exact).abs().max() < 1e-5
    if mask != "none":
        assert (exe(q, k, v)[:, :, {"boolean": 5, "float": 7}[mask]] == 0).all()


def test_causal(pipeline: str) -> None:
    q, k, v = (torch.randn(2, ROWS, DEPTH) for _ in range(3))
    exe = mlcflow.compile(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        q, k, v, pipeline=pipeline,
    )  # fmt: skip
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    assert (exe(q, k, v) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("mask", masks())
def test_scores_are_passed_over_once(mask: str) -> None:
    """Two matrix products, and one kernel for all that is done to a row of scores."""
    given = masks()[mask]
    q, k, v = (
        torch.randn(2, ROWS, DEPTH),
        torch.randn(2, COLUMNS, DEPTH),
        torch.randn(2, COLUMNS, 8),
    )
    exe = mlcflow.compile(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, given), q, k, v)
    rules = [
        str(op.attributes["mlcflow.rule"]).strip('"')
        for op in walk(exe.stages["schedule"].operation)
        if "mlcflow.rule" in op.operation.attributes
    ]
    assert rules.count("contraction") == 2
    assert rules.count("rows") == 1
    assert not {"reduction", "elementwise"} & set(rules)
