"""Scaled dot-product attention as models call it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from model_ir import kernel_rules

import mlcflow
from mlcflow.report.assembly import find, hot_loop

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
def test_one_kernel_without_the_matrix_of_scores(mask: str) -> None:
    given = masks()[mask]
    q, k, v = (
        torch.randn(8, ROWS, DEPTH),
        torch.randn(8, COLUMNS, DEPTH),
        torch.randn(8, COLUMNS, 8),
    )
    exe = mlcflow.compile(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, given), q, k, v)
    assert kernel_rules(exe)["attention"] == "attention"
    assert not {"contraction", "rows", "reduction", "elementwise"} & set(kernel_rules(exe).values())
    assert max(buffer.bytes for buffer in exe.memory().buffers) < 8 * ROWS * COLUMNS * 4
    assert "@expf" not in str(exe.stages["llvm"])
    assert "@exp2f" not in str(exe.stages["llvm"])


SIZES = {
    "tokens of ViT": (3, 197, 197, 64, 64),
    "as many as vectors": (2, 64, 64, 64, 64),
    "keys of one panel": (2, 16, 16, 32, 48),
    "less than a vector": (1, 8, 9, 5, 3),
    "odd": (5, 31, 77, 20, 40),
    "long rows": (1, 9, 5001, 16, 16),
    "one query": (4, 1, 128, 64, 64),
    "one key": (4, 20, 1, 16, 16),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_sizes(size: str, masked: bool) -> None:
    torch.manual_seed(0)
    heads, rows, columns, depth, width = SIZES[size]
    q, k = torch.randn(1, heads, rows, depth), torch.randn(1, heads, columns, depth)
    v, mask = torch.randn(1, heads, columns, width), torch.randn(heads, rows, columns)
    mask = mask if masked else torch.zeros(1, 1)
    exe = mlcflow.compile(F.scaled_dot_product_attention, q, k, v, mask)
    wide = [x.double() for x in (q, k, v, mask)]
    # Scores are sums of ``depth`` products, each rounded; their error goes into the exponents.
    assert (exe(q, k, v, mask) - F.scaled_dot_product_attention(*wide)).abs().max() < 5e-6
    if min(rows, columns) >= 8:
        assert "attention" in kernel_rules(exe).values()


def test_large_scores() -> None:
    """The largest of a row is far from 0, the smallest far from it: its power is 0, not NaN."""
    q, k, v = (torch.randn(2, 16, 16) * 30 for _ in range(3))
    exe = mlcflow.compile(F.scaled_dot_product_attention, q, k, v)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    # Exponents of up to 10**4 have an error of 10**4 * 2**-23.
    assert (exe(q, k, v) - exact).abs().max() < 5e-3 * exact.abs().max()


def test_nan_stays_in_its_row() -> None:
    q, k, v = torch.randn(2, 16, 16), torch.randn(2, 16, 16), torch.randn(2, 16, 16)
    q[1, 3, 5] = math.nan
    result = mlcflow.compile(F.scaled_dot_product_attention, q, k, v, verify=False)(q, k, v)
    rows = result.isnan().all(-1)
    assert rows[1, 3] and rows.sum() == 1 and result.isnan().any(-1).sum() == 1


class Heads(torch.nn.Module):
    """Attention between linear layers, as in transformers: heads lie side by side in a row."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in self.layers]
        return self.layers[3](F.scaled_dot_product_attention(*parts[:3]).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("batch", [1, 2])
def test_heads_are_read_and_written_as_they_lie(batch: int) -> None:
    model, x = Heads(96, 4), torch.randn(batch, 40, 96)
    exe = mlcflow.compile(model, x)
    assert set(kernel_rules(exe).values()) == {"attention", "contraction"}
    assert (exe(x) - model.double()(x.double())).abs().max() < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_masks_that_differ_between_batches(batch: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(batch, 3, ROWS, 8), *(torch.randn(batch, 3, COLUMNS, 8) for _ in range(2))
    mask = torch.randn(batch, 1, ROWS, COLUMNS)
    exe = mlcflow.compile(F.scaled_dot_product_attention, q, k, v, mask)
    assert list(kernel_rules(exe).values()) == ["attention"]
    exact = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v, mask)))
    assert (exe(q, k, v, mask) - exact).abs().max() < 5e-6


def repeated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """As the library transformers has it."""

    def repeat(x: torch.Tensor) -> torch.Tensor:
        batch, heads, length, width = x.shape
        more = x[:, :, None].expand(batch, heads, q.shape[1] // heads, length, width)
        return more.reshape(batch, q.shape[1], length, width)

    return F.scaled_dot_product_attention(q, repeat(k), repeat(v), is_causal=True)


def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


@pytest.mark.parametrize("model", [repeated, grouped])
@pytest.mark.parametrize(("batch", "heads"), [(1, 2), (2, 3), (2, 1)])
def test_heads_of_k_and_v_that_several_of_q_share(model, batch: int, heads: int) -> None:
    """They are read where they lie: there is no copy for each head of Q."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(batch, n, 40, 16) for n in (6, heads, heads))
    exe = mlcflow.compile(model, q, k, v)
    assert list(kernel_rules(exe).values()) == ["attention"]
    exact = model(*(x.double() for x in (q, k, v)))
    assert (exe(q, k, v) - exact).abs().max() < 5e-6


def test_one_matrix_of_each() -> None:
    q, k, v = torch.randn(20, 8), torch.randn(30, 8), torch.randn(30, 8)
    exe = mlcflow.compile(F.scaled_dot_product_attention, q, k, v)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert list(kernel_rules(exe).values()) == ["attention"]
    assert (exe(q, k, v) - exact).abs().max() < 5e-6


def test_accumulators_stay_in_registers() -> None:
    q, k, v = (torch.randn(2, 48, 64) for _ in range(3))
    exe = mlcflow.compile(F.scaled_dot_product_attention, q, k, v)
    loop = hot_loop(find(exe, "attention"))
    assert sum(loop.fmas.values()) >= 64
    assert not loop.spills
