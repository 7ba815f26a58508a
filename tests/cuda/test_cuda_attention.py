"""Attention as one kernel: the numbers, and what it asks of the chip."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_cuda_rules import rules

from mlcflow import pipelines
from mlcflow.compiler import import_model
from mlcflow.gpu import ptx
from mlcflow.target import Target

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-20, "tf32": 2.0**-9}
"""Of what is rounded: weights and results; of f32 sums of scores, of tf32 factors."""

SIZES = {
    "one_warp": (1, 16, 16, 16, 16),
    "several_warps": (1, 32, 128, 32, 32),
    "lengths_that_do_not_divide": (1, 21, 90, 16, 32),
    "widths_of_no_power_of_two": (1, 16, 70, 48, 16),
    "widths_of_half_a_tile_more": (1, 16, 70, 40, 24),
    "wide_heads": (1, 16, 40, 128, 128),
    "widest_heads": (1, 16, 40, 192, 160),
}
CASES = [(name, "float16") for name in SIZES]
CASES += [("lengths_that_do_not_divide", kind) for kind in ("bfloat16", "float32", "tf32")]
CASES += [("widths_of_half_a_tile_more", kind) for kind in ("float32", "tf32")]
CASES += [("wide_heads", "float32")]


def attention(build, sizes, dtype, *masks, causal=False, batch=(2,)):
    """Compile and run; the executable, what it gave, and the bound it had to keep."""
    heads, rows, keys, width, columns = sizes
    torch.manual_seed(0)
    shapes = [(*batch, heads, *size) for size in ((rows, width), (keys, width), (keys, columns))]
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    inputs = [torch.randn(shape).to(kind) for shape in shapes]

    def model(q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)

    options = {"precision": "tf32"} if dtype == "tf32" else {}
    executable = build(model, *inputs, *masks, options=options)
    actual = executable(*inputs, *masks).double()
    wide = [x.double() if x.is_floating_point() else x for x in (*inputs, *masks)]
    exact, largest = model(*wide), inputs[2].double().abs().max()
    # Each weight is rounded once, and so is the result; sums in f32 are exact beside that.
    bound = ROUNDING[dtype] * (largest + exact.abs()) + 1e-5
    assert ((actual - exact).abs() <= bound).all()
    return executable, actual


def is_one_kernel(executable, gpu):
    (kernel,) = gpu.kernels
    assert rules(executable) == ["attention"] and gpu.launched == [kernel]
    text = executable.assembly(kernel)
    assert ".local" not in text and "shfl.sync" in text
    return gpu.kernels[kernel], text


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_sizes(build, gpu, name, dtype):
    executable, _ = attention(build, SIZES[name], dtype)
    kernel, text = is_one_kernel(executable, gpu)
    assert ("mma.sync" in text) == (dtype != "float32") and "cp.async.cg" in text
    assert kernel.warps.conflicts == 0


def test_a_warp_of_more_queries(build, gpu):
    """Where there is a block for each multiprocessor, which reads of K and V half as often."""
    q, k, v = (torch.randn(2, n, 32).half() for n in (128, 48, 48))
    target = replace(Target.parse("cuda:sm_90"), cores=1)
    executable = build(F.scaled_dot_product_attention, q, k, v, target=target)
    result = executable(q, k, v).double()
    kernel, text = is_one_kernel(executable, gpu)
    assert text.count("mma.sync") == 2 * 2 * 4 * 2 and kernel.warps.conflicts == 0
    exact = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    torch.testing.assert_close(result, exact, rtol=2e-3, atol=2e-3)


def test_causal_masks_are_computed_where_they_are_needed(build, gpu):
    executable, _ = attention(build, (1, 40, 40, 32, 32), "bfloat16", causal=True)
    kernel, _ = is_one_kernel(executable, gpu)
    assert len(kernel.kinds) == 4  # three inputs and the result


@pytest.mark.parametrize("batch", [(), (1,)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_one_head(build, gpu, batch, dtype):
    """Which is no batch of products."""
    mask = torch.rand(21, 90) > 0.3
    is_causal = dtype == "float32"
    masks = [] if is_causal else [mask]
    executable, _ = attention(build, (1, 21, 90, 16, 32), dtype, *masks, batch=batch,
                              causal=is_causal)  # fmt: skip
    assert "attention" in rules(executable) and len(gpu.kernels) <= 2


def test_keys_behind_the_last_query_are_left_out(build):
    """What a causal mask hides from all queries of a block is not even multiplied."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 16).half() for n in (32, 160, 160))
    k[:, 64:], v[:, 64:] = math.nan, math.nan

    def model(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    result = build(model, q, k, v)(q, k, v)
    exact = model(q.double(), k[:, :64].double(), v[:, :64].double())
    torch.testing.assert_close(result.double(), exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_masks(build, gpu, kind):
    """A row has no key at all, another none among the first part of them, or the last."""
    torch.manual_seed(1)
    keep = torch.rand(20, 144) > 0.3
    keep[5] = False
    keep[6, :64], keep[7, 64:] = False, False
    added = torch.randn(20, 144).masked_fill(~keep, -math.inf)
    mask = keep if kind == "boolean" else added.half()
    executable, actual = attention(build, (2, 20, 144, 16, 16), "float16", mask)
    # What is added for each boolean is made in a kernel of its own.
    assert "attention" in rules(executable) and len(gpu.kernels) <= 2
    assert (actual[:, :, 5] == 0).all() and (actual[:, :, 6:8] != 0).any(-1).all()


@pytest.mark.parametrize("rows", [1, 20])
def test_masks_that_differ_between_batches(build, gpu, rows):
    torch.manual_seed(1)
    mask = torch.randn(2, 1, rows, 40).half()
    executable, _ = attention(build, (2, 20, 40, 16, 16), "float16", mask)
    is_one_kernel(executable, gpu)


@pytest.mark.parametrize(("heads", "causal"), [(2, True), (1, False)])
def test_heads_of_k_and_v_that_several_of_q_share(build, gpu, heads, causal):
    """They are read where they lie: there is no copy for each head of Q."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 36, 32).half() for n in (4, heads, heads))

    def model(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    executable = build(model, q, k, v)
    result = executable(q, k, v)
    is_one_kernel(executable, gpu)
    exact = model(q.double(), k.double(), v.double())
    torch.testing.assert_close(result.double(), exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("dtype", "kernels"), [("float16", 5), ("float32", 3)])
def test_one_query(build, gpu, dtype, kernels):
    """Two products and a softmax, which read K and V where they lie."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    q, k, v = (torch.randn(2, *size).to(kind) for size in ((4, 1, 32), (2, 70, 32), (2, 70, 32)))

    def model(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    executable = build(model, q, k, v)
    result = executable(q, k, v)
    assert len(gpu.launched) == kernels
    exact = model(q.double(), k.double(), v.double())
    bound = ROUNDING[dtype] * (v.double().abs().max() + exact.abs()) + 1e-5
    assert ((result - exact).abs() <= bound).all()


def test_large_scores_and_nan(build, gpu):
    """A later part may hold what is much larger; and NaN stays in its row."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(2, 16, 16), torch.zeros(2, 80, 16), torch.randn(2, 80, 16)
    q[:, :, 0], k[:, :, 0] = 8.0, torch.linspace(-100, 100, 80)
    q[0, 3, 5] = math.nan
    inputs = [x.half() for x in (q, k, v)]
    executable = build(F.scaled_dot_product_attention, *inputs)
    result = executable(*inputs)
    is_one_kernel(executable, gpu)
    exact = F.scaled_dot_product_attention(*(x.double() for x in inputs))
    rows = result.isnan().any(-1)
    assert rows[0, 3] and rows.sum() == 1
    torch.testing.assert_close(result[~rows].double(), exact[~rows], rtol=2e-3, atol=2e-3)


def test_heads_as_they_lie(build, gpu):
    """Of a model whose heads lie side by side no copy is made."""
    torch.manual_seed(0)
    x = torch.randn(2, 48, 96).half()

    def model(x):
        q, k, v = (part.view(2, 48, 2, 16).transpose(1, 2) for part in x.chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 48, 32)

    executable = build(model, x)
    assert rules(executable) == ["attention"]
    torch.testing.assert_close(executable(x).double(), model(x.double()), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("width", "causal", "registers"), [(32, False, 168), (64, False, 208), (64, True, 224),
                                       (128, False, 168)],
)  # fmt: skip
def test_what_a_large_kernel_takes(width, causal, registers):
    """Registers for everything that is not K or V; a barrier for each part of the keys."""
    pytest.importorskip("llvmlite")
    q = torch.empty(8, 16, 2048, width, dtype=torch.bfloat16)

    def model(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    target = Target.parse("cuda:sm_90")
    imported = import_model(model, (q, q.clone(), q.clone()))
    text = ptx.ptx_of(pipelines.build("cuda", target).run(imported.module, until="ptx")["ptx"])
    assert text.count(".entry") == 1 and ".local" not in text
    queries, keys = (32, 32) if width < 128 else (16, 32)
    assert text.count("mma.sync") == 2 * (queries // 16) * (keys // 8) * (width // 16)
    assert text.count("bar.sync") == 1 and text.count("cp.async.wait") == 1
    # Of each row, of which a lane has one in 8, and of its scores, shared by four.
    assert text.count("ex2.approx") == queries // 8 + queries * keys // 32
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, target).values()
        assert taken.spills == 0 and taken.registers <= registers
        assert taken.shared == 2 * 2 * keys * width * 2


SHAPES = {
    "few_blocks": ((2, 8, 512, 64), "float16", False),  # the assembler need not make room
    "half_a_tile": ((8, 8, 4096, 40), "float16", True),
    "widest": ((8, 8, 4096, 192), "bfloat16", True),
    "widest_exact": ((8, 8, 4096, 120), "float32", True),
    "few_exact": ((1, 12, 128, 64), "float32", False),
}


@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", SHAPES)
def test_all_fits_into_registers(name, chip):
    pytest.importorskip("llvmlite")
    shape, dtype, causal = SHAPES[name]
    q, target = torch.empty(shape, dtype=getattr(torch, dtype)), Target.parse(f"cuda:{chip}")

    def model(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    imported = import_model(model, (q, q.clone(), q.clone()))
    text = ptx.ptx_of(pipelines.build("cuda", target).run(imported.module, until="ptx")["ptx"])
    assert text.count(".entry") == 1 and ".local" not in text
    assert ("mma.sync" in text) == (dtype != "float32")
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, target).values()
        assert taken.spills == 0


def test_f32_without_tensor_cores():
    if not ptx.has_ptxas():
        pytest.skip("needs ptxas")
    q, target = torch.empty(8, 16, 2048, 64), Target.parse("cuda:sm_90")
    model = F.scaled_dot_product_attention
    imported = import_model(model, (q, q.clone(), q.clone()))
    text = ptx.ptx_of(pipelines.build("cuda", target).run(imported.module, until="ptx")["ptx"])
    assert (
        "mma.sync" not in text
        and text.count("fma.rn.f32") >= 2 * 16 * 64
        and text.count(".entry") == 1
    )
    (taken,) = ptx.assemble(text, target).values()
    assert taken.spills == 0 and taken.registers <= 168
