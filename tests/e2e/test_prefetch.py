"""Kernels over rows prefetch the next row, within the memory of the tensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow.mlir import memref, walk
from mlcflow.report.assembly import functions


def prefetches(exe: mlcflow.Executable) -> list[int]:
    """The hints of the prefetches in the kernels, 3 for the nearest cache."""
    ops = [op for op in walk(exe.stages["vectors"].operation) if isinstance(op, memref.PrefetchOp)]
    return [op.localityHint.value for op in ops]


@pytest.mark.parametrize(
    ("model", "shape", "hints"),
    [
        (torch.nn.Softmax(-1), (64, 1024), {3}),
        (torch.nn.LayerNorm(1024), (4, 16, 1024), {3}),
        (torch.nn.Softmax(-1), (16, 16384), {2}),  # four rows fit the second cache alone
        (torch.nn.Softmax(-1), (4, 1024), set()),  # all of it fits the first
        (torch.nn.Softmax(-1), (2, 1 << 20), set()),  # a row fits none
        (torch.nn.ReLU(), (64, 1024), set()),  # one pass
    ],
)
def test_the_second_pass_asks_for_the_next_row(
    model: torch.nn.Module, shape: tuple[int, ...], hints: set[int]
) -> None:
    caches = (32 << 10, 1 << 20, 32 << 20)
    target = replace(mlcflow.Target.host(), caches=caches)
    exe = mlcflow.compile(model, torch.zeros(shape), target=target)
    found = prefetches(exe)
    assert set(found) == hints
    lines = target.lanes(32) * 4 * 4 // 64  # of four vectors of a step
    assert len(found) == (lines if hints else 0)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    expected = model(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(exe(x), expected, rtol=1e-4, atol=1e-6)
    if hints:
        text = "\n".join(map(str, functions(exe).values()))
        assert "prefetcht0" in text if hints == {3} else "prefetcht1" in text
