"""Boxes that the chip copies by itself, on the processor: their bytes, and what goes wrong."""

from __future__ import annotations

import itertools
import re

import ml_dtypes
import numpy as np
import pytest
from cpu_kernels import compile_kernels
from cpu_threads import Divergence
from tensor_maps import SWIZZLED, TensorMap
from warpgroup_kernels import Factor, matrix_of

from mlcflow.gpu import ptx
from mlcflow.gpu.lower import to_nvvm
from mlcflow.mlir import ir, parse
from mlcflow.passes import Pass
from mlcflow.runtime.frame import aligned
from mlcflow.target import Target

SHARED = "#gpu.address_space<workgroup>"
TYPES = {7: np.float32, 9: ml_dtypes.bfloat16}
PROXY = "nvvm.fence.proxy {kind = #nvvm.proxy_kind<async.shared>, space = #nvvm.shared_space<cta>}"
TICKS = "%ticks = arith.constant 10000000 : i32"


def pointer(name: str, kind: str, at: str = "%zero64") -> str:
    """``%name``: a pointer to the byte ``at`` of the buffer ``%s_name``."""
    return f"""%x_{name} = memref.extract_aligned_pointer_as_index %s_{name} : {kind} -> index
  %y_{name} = arith.index_cast %x_{name} : index to i64
  %z_{name} = arith.addi %y_{name}, {at} : i64
  %{name} = llvm.inttoptr %z_{name} : i64 to !llvm.ptr<3>"""


def box_kernel(
    nbytes, where, threads=64, init="nvvm.mbarrier.init %bar, %one32 : !llvm.ptr<3>, i32",
    fence="nvvm.fence.mbarrier.init", barrier="gpu.barrier", expected=None, before="",
    wait="nvvm.mbarrier.try_wait.parity %bar, %zero32, %ticks : !llvm.ptr<3>, i32, i32",
    shift=0, first="%first = arith.cmpi eq, %t, %c0 : index",
) -> str:  # fmt: skip
    """One thread copies a box, all wait for it, and read what lies there."""
    kinds = [f"memref<{n}xi32, {SHARED}>" for n in (nbytes // 4, 2)]
    coordinates = [f"%w{n}" for n in range(len(where))]
    lines = [
        f"{name} = arith.constant {n} : i32" for name, n in zip(coordinates, where, strict=True)
    ]
    newline = "\n  "
    return f"""
module attributes {{gpu.container_module}} {{
gpu.module @k {{
gpu.func @k(%map: !llvm.ptr, %out: memref<{nbytes // 4}xi32>)
    workgroup(%s_box: {kinds[0]} {{llvm.align = 1024 : i64}},
              %s_bar: {kinds[1]} {{llvm.align = 8 : i64}}) kernel
    attributes {{known_block_size = array<i32: {threads}, 1, 1>}} {{
  %t = gpu.thread_id x
  %c0 = arith.constant 0 : index
  %n = arith.constant {nbytes // 4} : index
  %size = arith.constant {threads} : index
  %zero64 = arith.constant 0 : i64
  %shift = arith.constant {shift} : i64
  %zero32 = arith.constant 0 : i32
  %one32 = arith.constant 1 : i32
  %bytes = arith.constant {nbytes if expected is None else expected} : i32
  {TICKS}
  {newline.join(lines)}
  {pointer("box", kinds[0], "%shift")}
  {pointer("bar", kinds[1])}
  %to = llvm.addrspacecast %box : !llvm.ptr<3> to !llvm.ptr<7>
  {first}
  scf.if %first {{
    {init}
    {fence}
  }}
  {before}
  {barrier}
  scf.if %first {{
    nvvm.mbarrier.arrive.expect_tx %bar, %bytes : !llvm.ptr<3>, i32
    nvvm.cp.async.bulk.tensor.shared.cluster.global %to, %map, %bar,
      box[{", ".join(coordinates)}] : !llvm.ptr<7>, !llvm.ptr
  }}
  {wait}
  scf.for %i = %t to %n step %size {{
    %v = memref.load %s_box[%i] : {kinds[0]}
    memref.store %v, %out[%i] : memref<{nbytes // 4}xi32>
  }}
  gpu.return
}} }} }}
"""


def encode(map: TensorMap) -> np.ndarray:
    """The bytes of a tensor map, where a chip wants them."""
    assert not map.problem()
    data = aligned(128)
    data[:] = np.frombuffer(map.pack(), np.uint8)
    return data


def map_of(array: np.ndarray, box, swizzle=0, steps=None, fill=0) -> TensorMap:
    """The tensor map of an array without gaps; the box as the shape, outermost first."""
    kind = next(number for number, dtype in TYPES.items() if array.dtype == dtype)
    steps = tuple(steps or [1] * array.ndim)
    strides = array.strides[:-1][::-1]
    return TensorMap(
        kind, array.ctypes.data, array.shape[::-1], strides, tuple(box)[::-1], steps[::-1],
        swizzle=swizzle, oob_fill=fill,
    )  # fmt: skip


def random_array(shape, kind=9) -> np.ndarray:
    values = np.random.default_rng(0).integers(1, 100, shape).astype(TYPES[kind])
    held = aligned(values.nbytes).view(values.dtype).reshape(shape)
    held[:] = values
    return held


def copied(map: TensorMap, where, **options) -> np.ndarray:
    """The bytes in shared memory; ``where`` comes outermost first."""
    (kernel,) = compile_kernels(parse(box_kernel(map.box_bytes, where[::-1], **options))).values()
    out, data = np.zeros(map.box_bytes, np.uint8), encode(map)
    kernel([data.ctypes.data, out.ctypes.data], (1, 1, 1), (options.get("threads", 64), 1, 1))
    return out


def expected_box(array, box, where, swizzle, steps=None, fill=0) -> np.ndarray:
    """The same by hand: rows one after the other, and their chunks in turn."""
    steps = steps or [1] * array.ndim
    counts = [-(-n // step) for n, step in zip(box, steps, strict=True)]
    values = np.full(counts, fill, array.dtype)
    for place in itertools.product(*map(range, counts)):
        at = [w + n * s for w, n, s in zip(where, place, steps, strict=True)]
        if all(0 <= n < size for n, size in zip(at, array.shape, strict=True)):
            values[place] = array[tuple(at)]
    rows = values.reshape(-1, counts[-1])
    width = SWIZZLED[swizzle]
    if width:
        factor = Factor("bf16" if array.itemsize == 2 else "tf32", *rows.shape, width, False)
        return factor.image(rows).view(np.uint8)
    return rows.reshape(-1).view(np.uint8)


BOXES = {
    "plain": ((20, 64), (8, 16), (4, 32), 0),
    "128": ((70, 128), (64, 64), (0, 64), 3),
    "64": ((70, 128), (16, 32), (3, 8), 2),
    "32": ((70, 128), (32, 16), (1, 8), 1),
    "beyond": ((20, 72), (16, 64), (12, 40), 3),
    "before": ((20, 72), (16, 64), (-3, -5), 3),
    "nowhere": ((20, 72), (16, 64), (40, 0), 3),
    "batch": ((3, 20, 64), (2, 8, 32), (1, 15, 32), 2),
    "one_of_a_batch": ((3, 20, 64), (1, 16, 64), (2, 4, 0), 3),
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("kind", TYPES)
def test_boxes(name, kind):
    shape, box, where, swizzle = BOXES[name]
    if kind == 7:
        box = (*box[:-1], box[-1] // 2)
    array = random_array(shape, kind)
    found = copied(map_of(array, box, swizzle), where)
    np.testing.assert_array_equal(found, expected_box(array, box, where, swizzle))


def test_every_other_row_and_what_is_no_number():
    array, box, where, steps = random_array((21, 64)), (8, 64), (16, 32), (2, 1)
    map = map_of(array, box, 3, steps, fill=1)
    found, expected = (
        each.view(TYPES[9])
        for each in (copied(map, where), expected_box(array, box, where, 3, steps, fill=np.nan))
    )
    np.testing.assert_array_equal(found.astype(float), expected.astype(float))


STORE = f"memref.store %zero32, %s_box[%t] : memref<{{n}}xi32, {SHARED}>"
POLLING = """%there = scf.while : () -> i1 {
    %yes = nvvm.mbarrier.test.wait %bar, %zero32 : !llvm.ptr<3>, i32 -> i1
    %true = arith.constant true
    %no = arith.xori %yes, %true : i1
    scf.condition(%no) %yes : i1
  } do {
  ^bb0(%any: i1):
    scf.yield
  }"""


ELECTED = """nvvm.setmaxregister increase 96
  nvvm.prefetch tensormap, %map : !llvm.ptr
  %one_of_a_warp = nvvm.elect.sync -> i1
  %c32 = arith.constant 32 : index
  %of_first = arith.cmpi ult, %t, %c32 : index
  %first = arith.andi %one_of_a_warp, %of_first : i1"""


@pytest.mark.parametrize("options", [
    {"wait": POLLING},
    {"first": ELECTED},
    {"fence": PROXY},
    {"before": f"{STORE.format(n=16 * 32)}\n  {PROXY}"},
])  # fmt: skip
def test_other_ways(options):
    array = random_array((20, 72))
    found = copied(map_of(array, (16, 64), 3), (2, 8), **options)
    np.testing.assert_array_equal(found, expected_box(array, (16, 64), (2, 8), 3))


WRONG = {
    "init": ({"init": ""}, "no mbarrier was made"),
    "twice": ({"init": "nvvm.mbarrier.init %bar, %one32 : !llvm.ptr<3>, i32\n" * 2}, "where there"),
    "none": ({"init": "nvvm.mbarrier.init %bar, %zero32 : !llvm.ptr<3>, i32"}, "0 arrivals"),
    "fence": ({"fence": ""}, "without a fence after"),
    "barrier": ({"barrier": ""}, "no barrier came since"),
    "fewer": ({"expected": 16}, "wait for ever"),
    "more": ({"expected": 4096}, "wait for ever"),
    "too_many": ({"expected": 1 << 20}, "counts 1048576 bytes"),
    "parity": ({"wait": "nvvm.mbarrier.try_wait.parity %bar, %bytes, %ticks"
                        " : !llvm.ptr<3>, i32, i32"}, "parity 0 or 1"),
    "wait": ({"wait": ""}, "bulk copies are under way"),
    "arrivals": ({"wait": "nvvm.mbarrier.arrive %bar : !llvm.ptr<3>"}, "waits for 0"),
    "shift": ({"shift": 64}, "no multiple of 128"),
    "outside": ({"shift": 1024}, "no multiple of 128"),
    "proxy": ({"before": STORE.format(n=16 * 32)}, "a bulk copy overwrites"),
    "rank": ({"where": (0, 0, 0)}, "3 coordinates in a tensor of 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong(name):
    options, message = WRONG[name]
    options = dict(options)
    where = options.pop("where", (2, 8))
    with pytest.raises(Divergence, match=re.escape(message)):
        copied(map_of(random_array((20, 72)), (16, 64), 3), where, **options)


def test_what_is_no_tensor_map():
    (kernel,) = compile_kernels(parse(box_kernel(1024, (0, 0)))).values()
    data, out = aligned(128), aligned(1024)
    data[:] = 0
    with pytest.raises(Divergence, match="no tensor map"):
        kernel([data.ctypes.data, out.ctypes.data], (1, 1, 1), (64, 1, 1))


M, N, K, DEPTH, STAGES = 64, 32, 64, 4, 2
STRUCT = f"!llvm.struct<({', '.join(['f32'] * (N // 2))})>"
WAIT_FULL = "nvvm.mbarrier.try_wait.parity %full, %turn, %ticks : !llvm.ptr<3>, i32, i32"
WAIT_FREE = "nvvm.mbarrier.try_wait.parity %free, %other, %ticks : !llvm.ptr<3>, i32, i32"
RELEASE = "nvvm.mbarrier.arrive %free : !llvm.ptr<3>"


def stage(a: Factor, b: Factor) -> str:
    """In a loop over ``%i``: the barriers and the places of its stage."""
    return f"""%s = arith.remui %i, %stages : index
    %s64 = arith.index_cast %s : index to i64
    %round = arith.divui %i, %stages : index
    %round32 = arith.index_cast %round : index to i32
    %turn = arith.andi %round32, %one32 : i32
    %other = arith.xori %turn, %one32 : i32
    %full = llvm.getelementptr %bar[%s64] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i64
    %full_end = llvm.getelementptr %bar[{STAGES}] : (!llvm.ptr<3>) -> !llvm.ptr<3>, i64
    %free = llvm.getelementptr %full_end[%s64] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i64
    %a_bytes = arith.constant {a.nbytes} : i64
    %b_bytes = arith.constant {b.nbytes} : i64
    %a_at = arith.muli %s64, %a_bytes : i64
    %b_at = arith.muli %s64, %b_bytes : i64"""


def products(a: Factor, b: Factor) -> str:
    lines, sums = [], "%sums"
    for name, factor in (("a", a), ("b", b)):
        fields = factor.fields() - (1 << 64 if factor.fields() >> 63 else 0)
        lines.append(f"""%{name}_start = arith.addi %y_{name}, %{name}_at : i64
    %{name}_low = arith.andi %{name}_start, %mask : i64
    %{name}_chunk = arith.shrui %{name}_low, %four : i64
    %{name}_fields = arith.constant {fields} : i64
    %{name}_word = arith.addi %{name}_chunk, %{name}_fields : i64""")
    for k in range(K // 16):
        for name, factor in (("a", a), ("b", b)):
            lines.append(f"%{name}o{k} = arith.constant {factor.step(k) >> 4} : i64")
            lines.append(f"%{name}d{k} = arith.addi %{name}_word, %{name}o{k} : i64")
        lines.append(
            f"%r{k} = nvvm.wgmma.mma_async %ad{k}, %bd{k}, {sums}, #nvvm.shape<m = 64, n = {N},"
            " k = 16>, D [<f32>, #nvvm.wgmma_scale_out<one>], A [<bf16>, #nvvm.wgmma_scale_in<one>,"
            f" <row>], B [<bf16>, #nvvm.wgmma_scale_in<one>, <row>] : {STRUCT} -> {STRUCT}"
        )
        sums = f"%r{k}"
    return "\n    ".join(lines)


def ring_kernel(a: Factor, b: Factor, full=WAIT_FULL, free=WAIT_FREE, release=RELEASE) -> str:
    """A warpgroup multiplies what one more thread asks for; stages of memory take turns."""
    kinds = [f"memref<{STAGES * f.nbytes // 4}xi32, {SHARED}>" for f in (a, b)]
    kinds.append(f"memref<{2 * STAGES}xi64, {SHARED}>")
    stores = "\n    ".join(
        f"%e{i} = llvm.extractvalue %whole[{i}] : {STRUCT}\n    %c{i}x = arith.constant {i} : index"
        f"\n    memref.store %e{i}, %out[%t, %c{i}x] : memref<128x{N // 2}xf32>"
        for i in range(N // 2)
    )
    return f"""
module attributes {{gpu.container_module}} {{
gpu.module @k {{
gpu.func @k(%amap: !llvm.ptr, %bmap: !llvm.ptr, %out: memref<128x{N // 2}xf32>)
    workgroup(%s_a: {kinds[0]} {{llvm.align = 1024 : i64}},
              %s_b: {kinds[1]} {{llvm.align = 1024 : i64}},
              %s_bar: {kinds[2]} {{llvm.align = 8 : i64}}) kernel
    attributes {{known_block_size = array<i32: 160, 1, 1>}} {{
  %t = gpu.thread_id x
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c128 = arith.constant 128 : index
  %depth = arith.constant {DEPTH} : index
  %stages = arith.constant {STAGES} : index
  %zero64 = arith.constant 0 : i64
  %four = arith.constant 4 : i64
  %mask = arith.constant {0x3FFFF} : i64
  %zero32 = arith.constant 0 : i32
  %one32 = arith.constant 1 : i32
  %wide = arith.constant {K} : i32
  %all = arith.constant 128 : i32
  %bytes = arith.constant {a.nbytes + b.nbytes} : i32
  {TICKS}
  {pointer("a", kinds[0])}
  {pointer("b", kinds[1])}
  {pointer("bar", kinds[2])}
  %asks = arith.cmpi eq, %t, %c128 : index
  scf.if %asks {{
    scf.for %i = %c0 to %stages step %c1 {{
      {stage(a, b)}
      nvvm.mbarrier.init %full, %one32 : !llvm.ptr<3>, i32
      nvvm.mbarrier.init %free, %all : !llvm.ptr<3>, i32
    }}
    nvvm.fence.mbarrier.init
  }}
  gpu.barrier
  scf.if %asks {{
    scf.for %i = %c0 to %depth step %c1 {{
      {stage(a, b)}
      {free}
      %i32 = arith.index_cast %i : index to i32
      %k = arith.muli %i32, %wide : i32
      %pa = llvm.getelementptr %a[%a_at] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
      %pb = llvm.getelementptr %b[%b_at] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
      %ta = llvm.addrspacecast %pa : !llvm.ptr<3> to !llvm.ptr<7>
      %tb = llvm.addrspacecast %pb : !llvm.ptr<3> to !llvm.ptr<7>
      nvvm.mbarrier.arrive.expect_tx %full, %bytes : !llvm.ptr<3>, i32
      nvvm.cp.async.bulk.tensor.shared.cluster.global %ta, %amap, %full, box[%k, %zero32]
        : !llvm.ptr<7>, !llvm.ptr
      nvvm.cp.async.bulk.tensor.shared.cluster.global %tb, %bmap, %full, box[%zero32, %k]
        : !llvm.ptr<7>, !llvm.ptr
    }}
  }}
  %multiplies = arith.cmpi ult, %t, %c128 : index
  scf.if %multiplies {{
    %start = llvm.mlir.zero : {STRUCT}
    %whole = scf.for %i = %c0 to %depth step %c1 iter_args(%sums = %start) -> ({STRUCT}) {{
      {stage(a, b)}
      {full}
      nvvm.wgmma.fence.aligned
      {products(a, b)}
      nvvm.wgmma.commit.group.sync.aligned
      nvvm.wgmma.wait.group.sync.aligned 0
      {release}
      scf.yield %r{K // 16 - 1} : {STRUCT}
    }}
    {stores}
  }}
  gpu.return
}} }} }}
"""


FACTORS = Factor("bf16", M, K, 128, False), Factor("bf16", N, K, 64, True)


def ring(**options) -> tuple[np.ndarray, np.ndarray]:
    """What a warpgroup finds, and the product: A lies along K, B along N."""
    left, right = random_array((M, DEPTH * K)), random_array((DEPTH * K, N))
    maps = [encode(map_of(left, (M, K), 3)), encode(map_of(right, (K, N), 2))]
    (kernel,) = compile_kernels(parse(ring_kernel(*FACTORS, **options))).values()
    out = np.zeros((128, N // 2), np.float32)
    kernel([*(map.ctypes.data for map in maps), out.ctypes.data], (1, 1, 1), (160, 1, 1))
    return matrix_of(out), left.astype(np.float64) @ right.astype(np.float64)


def test_a_product_of_boxes_that_take_turns():
    found, expected = ring()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("options", "message"), [
    ({"full": ""}, "that was not waited for"),
    ({"full": WAIT_FULL.replace("%turn", "%other")}, "that was not waited for"),
    ({"free": ""}, "1 arrivals at an mbarrier that waits for 0"),
    ({"free": WAIT_FREE.replace("%other", "%turn")}, "wait for ever"),
    ({"release": ""}, "wait for ever"),
])  # fmt: skip
def test_turns_that_are_wrong(options, message):
    with pytest.raises(Divergence, match=re.escape(message)):
        ring(**options)


def test_memory_that_is_free_too_early():
    """One thread of the warpgroup must not speak for all of them before they have waited."""
    early = "nvvm.wgmma.commit.group.sync.aligned"
    text = ring_kernel(*FACTORS, release="")
    text = text.replace(early, f"{early}\n      {RELEASE}")
    left, right = random_array((M, DEPTH * K)), random_array((DEPTH * K, N))
    maps = [encode(map_of(left, (M, K), 3)), encode(map_of(right, (K, N), 2))]
    (kernel,) = compile_kernels(parse(text)).values()
    out = np.zeros((128, N // 2), np.float32)
    words = [*(map.ctypes.data for map in maps), out.ctypes.data]
    with pytest.raises(Divergence, match="written to before"):
        kernel(words, (1, 1, 1), (160, 1, 1))


@pytest.mark.parametrize("name", ["box", "polling", "ring"])
def test_the_chip_takes_the_same_kernels(name):
    pytest.importorskip("llvmlite")
    text = {
        "box": box_kernel(2048, (1, 2, 3)),
        "polling": box_kernel(2048, (1, 2), wait=POLLING),
        "ring": ring_kernel(*FACTORS),
    }[name]
    module, target = parse(text), Target("cuda", chip="sm_90a")
    with module.context, ir.Location.unknown():
        as_text = Pass("convert-nvvm-to-llvm", on="gpu.module")
        for step in (*to_nvvm(fast_math=True), as_text, ptx.kernels_to_ptx(target)):
            step(module)
    text = ptx.ptx_of(module)
    assert "cp.async.bulk.tensor" in text and "mbarrier.init" in text
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, target).values()
        assert taken.spills == 0
