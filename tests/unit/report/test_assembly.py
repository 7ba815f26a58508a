"""What the machine code of kernels consists of."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace

import pytest

import mlcflow
from mlcflow import Target
from mlcflow.errors import MlcflowError
from mlcflow.report import assembly
from mlcflow.report.assembly import Function, Instruction, hot_loop

is_elf = sys.platform == "linux" and platform.machine() == "x86_64"
needs_elf = pytest.mark.skipif(not is_elf, reason="needs x86-64 Linux")


def has_fma() -> bool:
    features = mlcflow.Target.host().features
    return "avx2" in features and "fma" in features


needs_avx2 = pytest.mark.skipif(not has_fma(), reason="needs AVX2 and FMA")


def matmul(m: int, n: int, k: int, element: str = "f32") -> str:
    a, b, c = (f"tensor<{x}x{y}x{element}>" for x, y in ((m, k), (k, n), (m, n)))
    return f"""func.func @main(%a: {a}, %b: {b}) -> {c} {{
      %zero = arith.constant 0.0 : {element}
      %empty = tensor.empty() : {c}
      %start = linalg.fill ins(%zero : {element}) outs(%empty : {c}) -> {c}
      %product = linalg.matmul ins(%a, %b : {a}, {b}) outs(%start : {c}) -> {c}
      return %product : {c}
    }}"""


def only_kernel(executable: mlcflow.Executable) -> str:
    (name,) = assembly.functions(executable).keys() - {"main"}
    return name


EXP = """func.func @main(%x: tensor<512xf32>) -> tensor<512xf32> {
  %empty = tensor.empty() : tensor<512xf32>
  %y = linalg.exp ins(%x : tensor<512xf32>) outs(%empty : tensor<512xf32>) -> tensor<512xf32>
  return %y : tensor<512xf32>
}"""


@needs_elf
@needs_avx2
@pytest.mark.parametrize("element", ["f32", "f64"])
def test_a_matmul_multiplies_and_adds_in_full_registers_only(element: str) -> None:
    executable = mlcflow.compile(matmul(512, 512, 512, element))
    loop = executable.hot_loop(only_kernel(executable))
    assert loop.is_loop
    assert set(loop.fmas) == {mlcflow.Target.host().vector_bits}
    assert loop.fmas == loop.arithmetic
    # Each row of B and each element of A is used more than once when it is in a register.
    assert sum(loop.fmas.values()) > loop.loads > 0
    assert (loop.stores, loop.spills, loop.calls) == (0, 0, ())


@needs_elf
def test_a_kernel_has_the_instructions_of_its_threads() -> None:
    target = replace(Target.host(), cores=2)
    executable = mlcflow.compile(matmul(512, 512, 512), target=target)
    assert "omp.parallel" in str(executable.stages["threads"])
    functions = assembly.functions(executable)
    assert not [name for name in functions if assembly.REGION in name or name.startswith("__")]
    (kernel,) = set(functions) - {"main"}
    assert executable.hot_loop(kernel).fmas


@needs_elf
def test_the_reference_pipeline_works_on_scalars() -> None:
    loop = mlcflow.compile(matmul(64, 64, 64), pipeline="reference").hot_loop("main")
    assert set(loop.arithmetic) == {32}
    assert loop.stores and not loop.calls


@needs_elf
def test_calls_have_names() -> None:
    executable = mlcflow.compile(EXP, pipeline="reference")
    assert set(executable.hot_loop("main").calls) == {"expf"}
    assert "call expf" in executable.assembly("main")
    assert "calls expf" in str(executable.hot_loop("main"))


@needs_elf
def test_a_network_calls_its_kernels_and_allocates_nothing() -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear
    model = torch.nn.Sequential(linear(64, 128), torch.nn.ReLU(), linear(128, 32))
    executable = mlcflow.compile(model, torch.randn(16, 64))
    functions = assembly.functions(executable)
    assert not {"malloc", "free"} & set(functions["main"].calls)
    text = executable.assembly()
    assert all(f"{name}:\n" in text for name in functions)
    assert not any(name.startswith(assembly.WRAPPER) for name in functions)


CHECKED = """func.func @main(%x: tensor<8xf32>, %n: tensor<index>) -> tensor<8xf32> {
  %i = tensor.extract %n[] : tensor<index>
  %limit = arith.constant 8 : index
  %holds = arith.cmpi slt, %i, %limit : index
  cf.assert %holds, "too large"
  return %x : tensor<8xf32>
}"""


@needs_elf
def test_a_module_with_assertions(capfd: pytest.CaptureFixture) -> None:
    executable = mlcflow.compile(CHECKED, pipeline="reference")
    assert "mlcflow_assertion_failed" in executable.assembly("main")
    assert capfd.readouterr().err == ""


@needs_elf
def test_unknown_functions_are_named_with_the_near_misses() -> None:
    executable = mlcflow.compile(matmul(16, 16, 16))
    name = only_kernel(executable)
    with pytest.raises(MlcflowError, match=f"unknown function '{name}x'.*did you mean '{name}'"):
        executable.hot_loop(f"{name}x")


def test_other_objects_are_refused() -> None:
    with pytest.raises(MlcflowError, match="expected an ELF object"):
        assembly.disassemble(b"\xcf\xfa\xed\xfe")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(MlcflowError, match=r"pip install 'mlcflow\[report\]'"):
        assembly.disassemble(b"\x7fELF")


@needs_elf
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("62f27d48b8c1", {"fma_bits": 512, "arithmetic_bits": 512}),  # vfmadd231ps zmm
        ("c4e27db8c1", {"fma_bits": 256, "arithmetic_bits": 256}),  # vfmadd231ps ymm
        ("c4e279b9c1", {"fma_bits": 32, "arithmetic_bits": 32}),  # vfmadd231ss
        ("c4e2f9b9c1", {"fma_bits": 64, "arithmetic_bits": 64}),  # vfmadd231sd
        ("c5fc5807", {"arithmetic_bits": 256, "loads": True}),  # vaddps ymm0, ymm0, [rdi]
        ("c5fc1007", {"loads": True}),  # vmovups ymm0, [rdi]
        ("c5fc1107", {"stores": True}),  # vmovups [rdi], ymm0
        ("c5fc11442420", {"stores": True, "stack": True}),  # vmovups [rsp + 32], ymm0
        ("48833f08", {"loads": True}),  # cmp qword [rdi], 8
        ("488d4708", {}),  # lea rax, [rdi + 8]
        ("480107", {"loads": True, "stores": True}),  # add [rdi], rax
        ("4150", {"stores": True, "stack": True}),  # push r8
    ],
)
def test_what_an_instruction_counts_as(code: str, expected: dict) -> None:
    capstone = pytest.importorskip("capstone")
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    function = assembly._read("f", engine.disasm(bytes.fromhex(code), 0), {}, capstone)
    (found,) = function.instructions
    assert found == Instruction(0, found.text, **expected), found.text


def loop_of(*bodies: tuple[int, int, int]) -> Function:
    """A function of 8-byte instructions: (from, to, arithmetic bits) for each loop."""
    instructions = {n: Instruction(n, f"nop {n}") for n in range(0, 80, 8)}
    for first, last, bits in bodies:
        for address in range(first, last, 8):
            if bits:
                instructions[address] = Instruction(address, "arithmetic", arithmetic_bits=bits)
        instructions[last] = Instruction(last, "jump", target=first)
    return Function("f", tuple(instructions.values()))


def test_the_hot_loop_is_the_deepest_that_computes() -> None:
    nested = loop_of((0, 16, 512), (32, 72, 0), (40, 56, 32))
    assert [i.address for i in hot_loop(nested).instructions] == [40, 48, 56]
    side_by_side = loop_of((0, 16, 32), (32, 56, 512), (64, 72, 0))
    assert [i.address for i in hot_loop(side_by_side).instructions] == [32, 40, 48, 56]


def test_without_a_loop_it_is_the_function() -> None:
    whole = hot_loop(loop_of())
    assert not whole.is_loop and len(whole.instructions) == 10
    assert "no loop" in str(whole)


def test_the_object_is_made_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling and calling does not pay for it."""
    called = []
    monkeypatch.setattr(
        "mlcflow.runtime.machine_code.compile_object", lambda *_: called.append(1) or b"none"
    )
    executable = mlcflow.compile(matmul(16, 16, 16))
    assert not called
    with pytest.raises(MlcflowError, match="expected an ELF object"):
        executable.assembly()
    assert called
