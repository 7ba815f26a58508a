"""Tensor maps from host code to the kernels that take them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from fake_driver import INVALID
from tensor_maps import TensorMap
from test_cuda_save import loaded

import mlcflow
from mlcflow.compiler import build_pipeline, load
from mlcflow.frontends import Imported
from mlcflow.gpu import driver, graphs, ptx
from mlcflow.mlir import parse
from mlcflow.target import Target

MAP = (
    "!nvgpu.tensormap.descriptor<tensor = memref<{tensor}, {space}>, swizzle = {swizzle}, "
    "l2promo = l2promo_128b, oob = zero, interleave = none>"
)

# One thread copies the words of the map, which only its kernel sees, to an output.
PROGRAM = """
!map = {map}
func.func @main(%a: memref<{array}> {{mlcflow.input = "a"}},
                %words: memref<16xi64> {{mlcflow.output = "words"}}) {{
  %c1 = arith.constant 1 : index
  {part}
  %any = memref.cast %part : memref<{kind}> to memref<*x{element}>
  {sizes}
  %map = nvgpu.tma.create.descriptor %any box[{box}] : memref<*x{element}> -> !map
  gpu.launch blocks(%bx, %by, %bz) in (%gx = %c1, %gy = %c1, %gz = %c1)
             threads(%tx, %ty, %tz) in (%sx = %c1, %sy = %c1, %sz = %c1) {{
    %c0 = arith.constant 0 : index
    %one = arith.constant 1 : index
    %c16 = arith.constant 16 : index
    %p = builtin.unrealized_conversion_cast %map : !map to !llvm.ptr
    scf.for %n = %c0 to %c16 step %one {{
      %i = arith.index_cast %n : index to i64
      %at = llvm.getelementptr %p[%i] : (!llvm.ptr, i64) -> !llvm.ptr, i64
      %word = llvm.load %at : !llvm.ptr -> i64
      memref.store %word, %words[%n] : memref<16xi64>
    }}
    gpu.terminator
  }}
  return
}}
"""
WHOLE = "%part = memref.cast %a : memref<{array}> to memref<{array}>"


def program(
    array="96x128xbf16", box=(64, 64), tensor=None, swizzle="swizzle_128b", space="3", part=None,
    kind=None,
):  # fmt: skip
    element = array.split("x")[-1]
    tensor = tensor or "x".join(map(str, (*box, element)))
    names = [f"%box{n}" for n in range(len(box))]
    lines = [
        f"{name} = arith.constant {n} : index" for name, n in zip(names, box, strict=True)
    ]  # fmt: skip
    return parse(
        PROGRAM.format(
            map=MAP.format(tensor=tensor, space=space, swizzle=swizzle), array=array,
            part=part or WHOLE.format(array=array), kind=kind or array, element=element,
            sizes="\n".join(lines), box=", ".join(names),
        )
    )  # fmt: skip


def make(gpu, module, chip="sm_90a"):
    pytest.importorskip("llvmlite")
    pipeline = build_pipeline("cuda", f"cuda:{chip}")
    return load(Imported(module), pipeline, start="launch", on_stage=gpu.on_stage)


def bfloat16(*shape):
    import ml_dtypes

    return np.zeros(shape, ml_dtypes.bfloat16)


def of(words):
    return TensorMap.unpack(words.tobytes())


def test_what_a_kernel_is_told(gpu):
    executable = make(gpu, program())
    found = of(executable(bfloat16(96, 128)))
    (place,) = [at for at, memory in gpu.memory.items() if len(memory) == 96 * 128 * 2]
    expected = TensorMap(9, place, (128, 96), (256,), (64, 64), (1, 1), swizzle=3, l2_promotion=2)
    assert found == expected
    executable(bfloat16(96, 128))
    assert gpu.calls.count("cuTensorMapEncodeTiled") == 2


MAPS = {
    "a_part": (
        {"kind": "64x64xbf16, strided<[128, 1], offset: 4160>", "part": """
            %part = memref.subview %a[32, 64] [64, 64] [1, 1]
              : memref<96x128xbf16> to memref<64x64xbf16, strided<[128, 1], offset: 4160>>"""},
        {"dims": (64, 64)}, 4160 * 2,
    ),
    "a_batch": (
        {"array": "4x80x64xf16", "box": (1, 16, 64), "tensor": "16x64xf16"},
        {"data_type": 6, "dims": (64, 80, 4), "strides": (128, 128 * 80), "box": (64, 16, 1),
         "element_strides": (1, 1, 1)}, 0,
    ),
    "f32": (
        {"array": "96x128xf32", "box": (32, 16), "space": "#gpu.address_space<workgroup>",
         "swizzle": "swizzle_64b"},
        {"data_type": 7, "strides": (512,), "box": (16, 32), "swizzle": 2}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_maps(gpu, name):
    written, expected, offset = MAPS[name]
    executable = make(gpu, program(**written))
    port = executable.inputs[0]
    found = of(executable(np.zeros(port.shape, port.numpy)))
    usual = {"data_type": 9, "dims": (128, 96), "strides": (256,), "box": (64, 64),
             "element_strides": (1, 1), "swizzle": 3, "l2_promotion": 2}  # fmt: skip
    assert found == TensorMap(address=found.address, **(usual | expected))
    assert found.address - offset in gpu.memory


def test_as_a_graph(gpu, monkeypatch):
    monkeypatch.setattr(graphs, "FEWEST", 1)
    executable = make(gpu, program())
    first, again = (executable(bfloat16(96, 128)).copy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert gpu.calls.count("cuGraphLaunch") == 1


def test_saved(gpu, tmp_path):
    make(gpu, program(**MAPS["a_part"][0])).save(tmp_path)
    (launch,) = json.loads((tmp_path / "program.json").read_text())["functions"]["main"]["launches"]
    assert launch["words"] == [
        {"array": [0, 4160 * 2], "data_type": 9, "dims": [64, 64], "strides": [256],
         "box": [64, 64], "steps": [1, 1], "kinds": [0, 3, 2, 0]}, [1, 0],
    ]  # fmt: skip
    again, module = loaded(tmp_path, gpu)
    found = of(again(bfloat16(96, 128)))
    assert found.dims == (64, 64) and found.address - 4160 * 2 in gpu.memory
    del gpu.cuTensorMapEncodeTiled
    with pytest.raises(module.LoadError, match="too old: it has no cuTensorMapEncodeTiled"):
        module.load(tmp_path, gpu)


def test_drivers_without_tensor_maps(gpu):
    del gpu.cuTensorMapEncodeTiled
    assert driver.open_driver()
    with pytest.raises(mlcflow.ExecutionError, match="too old: it has no cuTensorMapEncodeTiled"):
        make(gpu, program())


def test_what_the_driver_refuses(gpu):
    executable = make(gpu, program())
    gpu.fail["cuTensorMapEncodeTiled"] = INVALID
    with pytest.raises(mlcflow.ExecutionError, match="a tensor map: CUDA_ERROR_INVALID_VALUE"):
        executable(bfloat16(96, 128))
    assert not gpu.launched  # the chip would read by a map that is none
    executable(bfloat16(96, 128))
    assert len(gpu.launched) == 1


REFUSED = {
    "box": ({"box": (64,), "tensor": "64x64xbf16"}, "a box of known size, with all dimensions"),
    "rows": ({"array": "96x100xbf16"}, "at multiples of 16 bytes"),
    "type": ({"array": "96x128xi1", "swizzle": "none"}, "elements of type"),
    "shape": ({"array": "?x128xbf16"}, "known at compile time"),
    "tensor": ({"tensor": "32x64xbf16"}, "whose tensor is the box"),
    "line": ({"box": (64, 4), "swizzle": "none"}, "in rows of 16 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(gpu, name):
    written, message = REFUSED[name]
    with pytest.raises(mlcflow.LoweringError, match=message):
        make(gpu, program(**written))


COPY = """
!map = {map}
!barrier = !nvgpu.mbarrier.group<memorySpace = #gpu.address_space<workgroup>>
!tile = memref<64x64xbf16, #gpu.address_space<workgroup>>
func.func @main(%a: memref<96x128xbf16> {{mlcflow.input = "a"}},
                %b: memref<{rows}x64xbf16> {{mlcflow.output = "b"}}) {{
  %c1 = arith.constant 1 : index
  %c64 = arith.constant 64 : index
  %any = memref.cast %a : memref<96x128xbf16> to memref<*xbf16>
  %map = nvgpu.tma.create.descriptor %any box[%c64, %c64] : memref<*xbf16> -> !map
  gpu.launch blocks(%bx, %by, %bz) in (%gx = %c1, %gy = %c1, %gz = %c1)
             threads(%tx, %ty, %tz) in (%sx = %c64, %sy = %c1, %sz = %c1)
             workgroup(%tile: !tile) {{
    %c0 = arith.constant 0 : index
    %one = arith.constant 1 : index
    %wait = arith.constant 10000000 : index
    %even = arith.constant false
    %nbytes = arith.constant 8192 : index
    %barrier = nvgpu.mbarrier.create -> !barrier
    %first = arith.cmpi eq, %tx, %c0 : index
    scf.if %first {{
      nvgpu.mbarrier.init %barrier[%c0], %one : !barrier
      nvvm.fence.mbarrier.init
    }}
    gpu.barrier
    scf.if %first {{
      nvgpu.mbarrier.arrive.expect_tx %barrier[%c0], %nbytes : !barrier
      nvgpu.tma.async.load %map[%c0, %c0], %barrier[%c0] to %tile : !map, !barrier -> !tile
    }}
    nvgpu.mbarrier.try_wait.parity %barrier[%c0], %even, %wait : !barrier
    %x = memref.load %tile[%tx, %tx] : !tile
    memref.store %x, %b[%tx, %tx] : memref<{rows}x64xbf16>
    %y = memref.load %a[%tx, %tx] : memref<96x128xbf16>
    memref.store %y, %b[%tx, %c0] : memref<{rows}x64xbf16>
    gpu.terminator
  }}
  return
}}
"""


def copy(rows=64, swizzle="swizzle_128b"):
    """Text of a program whose chip copies a box of ``a``; its diagonal goes to ``b``."""
    written = MAP.format(tensor="64x64xbf16", space=3, swizzle=swizzle)
    return COPY.format(map=written, rows=rows)


@pytest.mark.parametrize("rows", ["64", "?"])
def test_what_the_assembler_takes(rows):
    """The chip reads the map where the launch has put it; arrays of known shapes, and of open."""
    pytest.importorskip("llvmlite")
    target = Target.parse("cuda:sm_90a")
    stages = build_pipeline("cuda", target).run(parse(copy(rows)), start="launch", until="ptx")
    text = ptx.ptx_of(stages["ptx"])
    (number,) = re.findall(r"\.param \.align 64 \.b8 main_kernel_param_(\d+)\[128\]", text)
    assert text.count("cp.async.bulk.tensor.2d.shared::cluster.global") == 1
    assert ".local" not in text and f"main_kernel_param_{number}]" not in text  # nobody loads it
    arguments = str(stages["outline"]).split("gpu.func")[1].split("\n")[0]
    assert arguments.count("llvm.noalias") == 1  # the map and an argument are of one array
    if ptx.has_ptxas():
        (taken,) = ptx.assemble(text, target).values()
        assert taken.spills == 0 and taken.shared >= 64 * 64 * 2 + 8


def test_maps_from_elsewhere():
    text = copy().replace("func.func @main(", "func.func @main(%m: !map,")
    text = re.sub(r"%map = nvgpu.*", "", text).replace("load %map", "load %m")
    with pytest.raises(mlcflow.LoweringError, match="made in the function which launches"):
        stages = build_pipeline("cuda", "cuda:sm_90a")
        stages.run(parse(text), start="outline", until="llvm")
