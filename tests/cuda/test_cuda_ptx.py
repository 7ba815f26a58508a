"""PTX: literals from one LLVM to another, what the assembler says, what kernels take."""

from __future__ import annotations

import re
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mlcflow
from mlcflow import LoweringError
from mlcflow.compiler import build_pipeline, import_model
from mlcflow.gpu import ptx
from mlcflow.gpu.llvm_text import mark_convergent, rewrite_constants
from mlcflow.gpu.program import lower_program
from mlcflow.mlir import gpu, ir, llvm, parse
from mlcflow.pipelines.cuda import host_to_llvm
from mlcflow.target import CUDA_CHIPS, Target

WIDTHS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}


@given(st.sampled_from(sorted(WIDTHS)), st.lists(st.integers(0, 2**64 - 1), min_size=8))
def test_constants_arrive_bit_by_bit(kind: str, numbers: list[int]) -> None:
    """From MLIR through text to LLVM's bitcode and back, as integers."""
    binding = pytest.importorskip("llvmlite.binding")
    width = WIDTHS[kind]
    patterns = [number % (1 << width) for number in numbers]
    text = rewrite_constants(llvm.translate_module_to_llvmir(_stores(kind, patterns).operation))
    module = binding.parse_assembly(text)
    module.verify()
    body = str(module).split("define")[1]
    found = [line.split(",")[0].split()[-1] for line in body.split("\n") if "store" in line]
    kinds = {"f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double"}
    assert [_bits(kinds[kind], word, width) for word in found] == patterns


def _stores(kind: str, patterns: list[int]) -> ir.Module:
    width = WIDTHS[kind]
    lines = []
    for number, bits in enumerate(patterns):
        lines.append(f"%v{number} = llvm.mlir.constant(0x{bits:0{width // 4}X} : {kind}) : {kind}")
        lines.append(f"llvm.store volatile %v{number}, %p : {kind}, !llvm.ptr")
    body = "\n".join(lines)
    return parse(f"llvm.func @f(%p: !llvm.ptr) {{ {body}\n llvm.return }}")


def _bits(kind: str, word: str, width: int) -> int:
    """The bits of a constant as LLVM 22 prints it."""
    if word.startswith(("0xH", "0xR")):
        return int(word[3:], 16)
    if word.startswith("0x"):
        bits = int(word, 16)
    else:
        (bits,) = struct.unpack("<Q", struct.pack("<d", float(word)))
    if kind == "double":
        return bits
    if kind != "float":
        raise AssertionError(f"{kind} in decimal: {word}")
    exponent = bits >> 52 & 0x7FF
    if exponent == 0x7FF:
        return (bits >> 63) << 31 | 0xFF << 23 | (bits >> 29 & 0x7FFFFF)
    (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    (narrow,) = struct.unpack("<I", struct.pack("<f", value))
    return int(narrow)


def test_inline_assembly_is_convergent() -> None:
    binding = pytest.importorskip("llvmlite.binding")
    module = parse("""llvm.func @f(%a: f32) -> f32 {
      %b = llvm.inline_asm has_side_effects "wait (0);", "=f,0" %a : (f32) -> f32
      llvm.inline_asm has_side_effects "fence;", "" : () -> ()
      llvm.return %b : f32 }""")
    text = mark_convergent(llvm.translate_module_to_llvmir(module.operation))
    again = binding.parse_assembly(text)
    (attributes,) = re.findall(r"attributes #\d+ = {(.*)}", str(again))
    assert str(again).count("asm sideeffect") == 2 and attributes.split() == ["convergent"]


def test_text_that_only_looks_like_a_constant() -> None:
    text = '@"float 0.1" = constant [4 x i8] c"1.5\\00" ; 0.1\n!0 = !{!"double 0.5"}'
    assert rewrite_constants(text).count("0x") <= 1  # the comment at most
    assert "%1.5" in rewrite_constants("%1.5 = fadd float %float.0, %2")


def product(chip: str) -> tuple[ir.Module, Target]:
    function = mlcflow.einsum_function(
        "C[i, j] += A[i, k] * B[k, j]", A=((64, 64), "float32"), B=((64, 64), "float32")
    )
    module = function.module
    schedule = mlcflow.Schedule(module)
    loops = schedule.tile_and_fuse("root", [1, 1])
    schedule.bind(schedule.fuse(*loops), "global.x")
    return module, Target("cuda", chip=chip)


@pytest.mark.parametrize("chip", CUDA_CHIPS)
def test_every_chip_is_assembled_for(chip: str) -> None:
    pytest.importorskip("llvmlite")
    module, target = product(chip)
    text = ptx.ptx_of(lower_program(module, target, until="ptx")["ptx"])
    assert f".target {chip}" in text and ".maxntid 256" in text
    assert "fma.rn.f32" in text
    if ptx.has_ptxas():
        (resources,) = ptx.assemble(text, target).values()
        assert resources.registers <= 64 and resources.spills == 0


def test_what_the_assembler_refuses() -> None:
    if not ptx.has_ptxas():
        pytest.skip("needs ptxas")
    with pytest.raises(LoweringError, match="ptxas refuses"):
        ptx.assemble(
            ".version 8.0\n.target sm_90\n.address_size 64\nnonsense;", product("sm_90")[1]
        )


def test_what_is_not_lowered() -> None:
    module = parse("""
        module attributes {gpu.container_module} {
          gpu.module @m { gpu.func @m(%a: memref<4xf32>) kernel {
            %c0 = arith.constant 0 : index
            %x = memref.load %a[%c0] : memref<4xf32>
            memref.store %x, %a[%c0] : memref<4xf32>
            gpu.return } }
        }""")
    with module.context, ir.Location.unknown():
        with pytest.raises(LoweringError, match="not lowered to the NVVM dialect: arith.constant"):
            ptx.kernels_to_ptx(Target("cuda", chip="sm_90"))(module)
        assert any(isinstance(op, gpu.GPUModuleOp) for op in module.body.operations)


def test_functions_that_a_gpu_lacks() -> None:
    pytest.importorskip("llvmlite")
    with pytest.raises(LoweringError, match="a GPU lacks: puts"):
        ptx.compile_to_ptx(
            ["declare void @puts()\ndefine void @k() { call void @puts() ret void }"],
            Target("cuda", chip="sm_90"),
        )


def test_log1p_of_small_numbers_is_no_logarithm() -> None:
    """By the library of the chip, and by C's in host code: log(1 + x) is 0 for a small x."""
    kernel = import_model(torch.log1p, (torch.ones(64),))
    stages = build_pipeline("cuda", "cuda:sm_90").run(kernel.module, until="nvvm")
    assert "@__nv_log1pf" in str(stages["nvvm"]) and "@__nv_logf" not in str(stages["nvvm"])
    host = parse("func.func @f(%x: f32) -> f32 { %y = math.log1p %x : f32\n return %y : f32 }")
    with host.context, ir.Location.unknown():
        for step in host_to_llvm():
            step(host)
    assert "llvm.call @log1pf" in str(host) and "intr.log" not in str(host)
