"""``wgmma`` on the processor: the numbers of every layout, and what a GPU would do wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cpu_kernels import compile_kernels
from cpu_threads import Divergence
from warpgroup_kernels import PROXY, matrix_of, product
from warpgroup_layouts import Descriptor, places

from mlcflow.gpu import ptx
from mlcflow.gpu.lower import to_nvvm
from mlcflow.mlir import ir, parse
from mlcflow.passes import Pass
from mlcflow.target import Target


def run(kernel, left, right) -> np.ndarray:
    """What the threads hold in the end."""
    (compiled,) = compile_kernels(parse(kernel.text())).values()
    d = np.full((kernel.threads, kernel.registers), 7e7, np.float32)
    arrays = [kernel.a.image(left), kernel.b.image(right), d]
    words = [array.ctypes.data for array in arrays]
    compiled(words, (1, 1, 1), (kernel.threads, 1, 1))
    return d


def check(*arguments, **options) -> None:
    kernel, left, right = product(*arguments, **options)
    expected = left.astype(np.float64) @ right.astype(np.float64).T
    np.testing.assert_array_equal(matrix_of(run(kernel, left, right)), expected)


@pytest.mark.parametrize("mn_major", [False, True])
@pytest.mark.parametrize("width", [128, 64, 32, 16])
@pytest.mark.parametrize(("n", "kind"), [(8, "bf16"), (64, "f16"), (128, "bf16"), (256, "f16")])
def test_layouts_of_b(n, kind, width, mn_major):
    check(kind, n, 32, (128, width), (False, mn_major))


@pytest.mark.parametrize("mn_major", [False, True])
@pytest.mark.parametrize("width", [128, 64, 32, 16])
def test_layouts_of_a(width, mn_major):
    check("bf16", 24, 64, (width, 64), (mn_major, True))


@pytest.mark.parametrize("width", [128, 64, 32, 16])
def test_tf32(width):
    check("tf32", 24, 32, (width, width))


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("wait", ["tie", "plain"])
@pytest.mark.parametrize("copies", [False, True])
def test_ways_to_wait(looped, wait, copies):
    """Sums stay in registers over a loop; factors come with cp.async, or by hand."""
    check("bf16", 16, 64, looped=looped, wait=wait, copies=copies)


EXAMPLES = {  # of the PTX ISA: mode, transposed, bytes of an element, exact layout, LBO, SBO
    "k_tf32": (0, False, 4, (((8, 4), (2, 32)), ((4, 1), (2, 64))), 64, 32),
    "k_32_tf32": (3, False, 4, (((8, 8), (2, 64)), ((4, 1), (2, 4))), 1, 64),
    "mn_bf16": (0, True, 2, (((8, 1), (2, 64)), ((8, 8), (2, 128))), 128, 64),
    "mn_32_bf16": (3, True, 2, (((8, 1), (2, 8), (2, 128)), ((8, 16), (2, 256))), 128, 256),
    "mn_64_bf16": (2, True, 2, (((8, 1), (4, 8), (2, 256)), ((8, 32), (2, 512))), 256, 512),
}


def offset(modes, number: int) -> int:
    """What a layout of sizes and strides makes of a number."""
    total = 0
    for size, stride in modes:
        number, rest = divmod(number, size)
        total += rest * stride
    return total


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_isa(name):
    """Two patterns by the depth of a product, from a place that swizzling leaves alone."""
    mode, transposed, size, (rows, columns), leading, stride = EXAMPLES[name]
    word = mode << 62 | leading * size >> 4 << 16 | stride * size >> 4 << 32 | 4096 >> 4
    extent = int(np.prod([n for n, _ in rows]))
    found = places(word, transposed, size, extent, 32 // size)
    for mn in range(extent):
        for k in range(32 // size):
            linear = 4096 + size * (offset(rows, mn) + offset(columns, k))
            bits = {0: 0, 3: 1, 2: 2, 1: 3}[mode]
            expected = linear ^ (linear >> 7 & (1 << bits) - 1) << 4
            assert found[mn, k] == expected


WRONG = {
    "proxy": ({"proxy": ""}, "without fence.proxy.async"),
    "barrier": ({"barrier": ""}, "no barrier came since"),
    "copies": ({"copies": True, "proxy": ""}, "wait for its copy"),
    "copies_first": (
        {"copies": True, "proxy": f"{PROXY}\nnvvm.cp.async.wait.group 0", "waits": ""},
        "wait for its copy",
    ),
    "fence": ({"fence": ""}, "without wgmma.fence"),
    "wait": ({"wait": ""}, "not waited for"),
    "wait_for_less": ({"group": 1}, "not waited for"),
    "commit": ({"commit": ""}, "not waited for"),
    "written": ({"between": "memref.store %zero32, %sa[%t] : memref<2048xi32, 3>"}, "written to"),
    "align": ({"align": 512}, "no multiple of 1024"),
    "pattern": ({"more": 8}, "no multiple of 1024"),
    "base": ({"more": 1 << 49}, "base offsets"),
    "bits": ({"more": 1 << 46}, "outside of its fields"),
    "lines": ({"more": 1}, "cross the end"),
    "outside": ({"more": 0x2000}, "out of the shared memory"),
    "descriptors": ({"shift": "%odd64"}, "different descriptors"),
    "threads": ({"threads": 64}, "no whole warpgroup"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong(name):
    options, message = WRONG[name]
    options = {
        key: value.replace(", 3>", ", #gpu.address_space<workgroup>>")
        if isinstance(value, str)
        else value
        for key, value in options.items()
    }
    kernel, left, right = product("bf16", 16, 64, **options)
    with pytest.raises(Divergence, match=re.escape(message)):
        run(kernel, left, right)


def test_sums_that_were_not_waited_for_are_no_numbers():
    kernel, left, right = product("bf16", 16, 64, group=1, wait="plain", end=True)
    assert np.isnan(run(kernel, left, right)).all()


BAD = {
    "swapped": (1 << 62 | 1 << 32 | 64 << 16, True, 2, 128, "stride dimension offset is 16"),
    "panels": (1 << 62 | 64 << 32 | 1 << 16, True, 2, 128, "leading dimension offset is 16"),
    "one_place": (8 << 32, False, 2, 16, "lie in one place"),
    "tf32": (0, True, 4, 16, "only factors of 16 bits"),
    "none": (1 << 49, False, 2, 16, "base offset without swizzle"),
    "window": (0x3FFF | 8 << 32 | 8 << 16, False, 2, 16, "beyond the window"),
}


@pytest.mark.parametrize("name", BAD)
def test_descriptors_that_are_wrong(name):
    word, transposed, size, extent, message = BAD[name]
    with pytest.raises(Exception, match=message):
        places(word, transposed, size, extent, 32 // size)


def test_fields():
    word = 2 << 62 | 0x20 << 32 | 0x10 << 16 | 0x40
    assert Descriptor.of(word) == Descriptor(0x400, 0x100, 0x200, 0, 64)


@pytest.mark.parametrize("name", ["k", "mn", "tf32"])
def test_the_chip_takes_the_same_kernels(name):
    """The real lowering, and the assembler of NVIDIA."""
    pytest.importorskip("llvmlite")
    kind, major = ("tf32", False) if name == "tf32" else ("bf16", name == "mn")
    kernel, *_ = product(kind, 64, 64, (128, 128), (major, major), copies=True, looped=True)
    module, target = parse(kernel.text()), Target("cuda", chip="sm_90a")
    with module.context, ir.Location.unknown():
        as_text = Pass("convert-nvvm-to-llvm", on="gpu.module")
        for step in (*to_nvvm(fast_math=True), as_text, ptx.kernels_to_ptx(target)):
            step(module)
    text = ptx.ptx_of(module)
    depth = "k8" if kind == "tf32" else "k16"
    turned = "" if kind == "tf32" else rf",\s*{int(major)},\s*{int(major)}"
    pattern = (
        rf"wgmma\.mma_async\.sync\.aligned\.m64n64{depth}\.f32\.{kind}\.{kind} .*p, 1,\s*1{turned};"
    )
    assert re.search(pattern, text) and ".align 1024" in text
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, target).values()
        assert taken.spills == 0
