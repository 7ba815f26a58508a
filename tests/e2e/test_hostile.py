"""Files that mean harm: what loading one can do, and what it cannot (SECURITY.md)."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlcflow
from mlcflow import Pass, Pipeline, Stage, cached, mlir
from mlcflow.check.guard import call_guarded
from mlcflow.check.isolate import Limits, is_supported
from mlcflow.compiler import build_pipeline
from mlcflow.errors import ExecutionError, ImportModelError, MlcflowError
from mlcflow.frontends.model import read_model
from mlcflow.pipeline import Stages
from mlcflow.pipelines import reference
from mlcflow.runtime import object_code, symbols
from mlcflow.runtime.cache import Cache, Refused
from mlcflow.runtime.machine_code import store
from mlcflow.runtime.stored import from_bytes
from mlcflow.target import Target

LIMITS = Limits(seconds=30, memory=2 << 30)
needs_worker = pytest.mark.skipif(not is_supported(), reason="needs Linux")

MATMUL = """
func.func @main(%x: tensor<4x8xf32>, %y: tensor<8x4xf32>) -> tensor<4x4xf32> {
  %c = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x4xf32>
  %z = linalg.fill ins(%c : f32) outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>
  %r = linalg.matmul ins(%x, %y : tensor<4x8xf32>, tensor<8x4xf32>)
      outs(%z : tensor<4x4xf32>) -> tensor<4x4xf32>
  return %r : tensor<4x4xf32>
}"""


def main(arguments: str, body: str, result: str = "tensor<4xf32>") -> str:
    return f"func.func @main({arguments}) -> {result} {{\n{body}\n}}"


SAME = main("%x: tensor<4xf32>", "return %x : tensor<4xf32>")


def bytecode(text: str) -> bytes:
    stream = BytesIO()
    mlir.parse(text).operation.write_bytecode(stream)
    return stream.getvalue()


def damaged(seed: int, data: bytes) -> bytes:
    """``data`` cut short, or with some bytes that are others."""
    chance, wrong = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(wrong))
        wrong[place] = chance.randrange(256)
        if chance.random() < 0.2:
            del wrong[max(place, 5) :]
    return bytes(wrong)


@needs_worker
@pytest.mark.parametrize("kind", ["text", "bytecode"])
def test_damaged_modules(kind: str) -> None:
    """About one file of bytecode in a hundred ends or hangs MLIR's reader. None ends us."""
    data = MATMUL.encode() if kind == "text" else bytecode(MATMUL)
    for seed in range(25):
        try:
            exe = mlcflow.compile(damaged(seed, data), isolate=LIMITS, cache=False)
        except MlcflowError:
            continue
        assert isinstance(exe, mlcflow.Executable)


@needs_worker
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 1000,
        "ML\xefR",
        "module {}",
        "func.func @f() { return }",
        "func.func private @main()",
        main("%x: tensor<*xf32>", "return %x : tensor<*xf32>", "tensor<*xf32>"),
        main("%x: tensor<4xi3>", "return %x : tensor<4xi3>", "tensor<4xi3>"),
        main("%x: tuple<f32>", "return %x : tuple<f32>", "tuple<f32>"),
        f"module {{ module {{ {SAME} }} }}",
        f"func.func @_mlir_ciface_main() {{ return }}\n{SAME}",
        "func.func @main() {" + "scf.execute_region {" * 50_000,
        "func.func private @f() attributes {a = " + "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_modules_that_are_none(text: str) -> None:
    with pytest.raises(MlcflowError):
        mlcflow.compile(text, isolate=LIMITS, cache=False)


@pytest.mark.parametrize(
    "attributes",
    [
        'mlcflow.dtype = "float64"',
        'mlcflow.dtype = "blob"',
        "mlcflow.input = 3 : i32",
        'mlcflow.parameter = "nobody"',
        'mlcflow.prepared = "nobody"',
        "mlcflow.arena",
    ],
)
@pytest.mark.parametrize("where", ["argument", "result"])
def test_attributes_that_lie(attributes: str, where: str) -> None:
    """They say how much memory the runtime gives: a small lie would overflow it."""
    text = SAME.replace("tensor<4xf32>)", f"tensor<4xf32> {{{attributes}}})", 1)
    if where == "result":
        text = SAME.replace("-> tensor<4xf32>", f"-> (tensor<4xf32> {{{attributes}}})")
    try:
        exe = mlcflow.compile(text, pipeline="reference")
    except MlcflowError:
        return
    [port] = exe.outputs  # what is no output is none: it is not looked at
    assert (port.dtype, port.shape) == ("float32", (4,)) and where == "result"


@pytest.mark.parametrize("pipeline", ["reference", "cpu"])
def test_what_a_module_claims_of_itself_is_computed_anew(pipeline: str) -> None:
    claims = "mlcflow.memory = {arena = 1 : i64}, mlcflow.threads = 10000 : i32"
    text = f"module attributes {{{claims}}} {{ {MATMUL} }}"
    exe = mlcflow.compile(text, pipeline=pipeline)
    np.testing.assert_allclose(exe(np.ones((4, 8), "f"), np.ones((8, 4), "f")), 8)
    claim = '{name = "x", role = "input", type = memref<1xf32>}'
    text = f"module attributes {{mlcflow.interface = {{main = [{claim}]}}}} {{ {MATMUL} }}"
    with pytest.raises(MlcflowError):
        mlcflow.compile(text, pipeline=pipeline)


HUGE = "tensor<1000000x1000000xf32>"


@needs_worker
def test_a_million_times_a_million() -> None:
    body = f"%c = arith.constant dense<1.0> : {HUGE}\nreturn %c : {HUGE}"
    exe = mlcflow.compile(main("", body, HUGE), isolate=LIMITS, cache=False)
    with pytest.raises(MemoryError, match="TiB"):
        exe()
    body = f"""
      %c = arith.constant 0.0 : f32
      %e = tensor.empty() : {HUGE}
      %m = linalg.broadcast ins(%x : tensor<1000000xf32>) outs(%e : {HUGE}) dimensions = [0]
      %t = linalg.transpose ins(%m : {HUGE}) outs(%e : {HUGE}) permutation = [1, 0]
      %s = tensor.empty() : tensor<1000000xf32>
      %z = linalg.fill ins(%c : f32) outs(%s : tensor<1000000xf32>) -> tensor<1000000xf32>
      %r = linalg.matvec ins(%t, %x : {HUGE}, tensor<1000000xf32>)
          outs(%z : tensor<1000000xf32>) -> tensor<1000000xf32>
      return %r : tensor<1000000xf32>"""
    text = main("%x: tensor<1000000xf32>", body, "tensor<1000000xf32>")
    exe = mlcflow.compile(text, pipeline="cpu", isolate=LIMITS, cache=False)
    arena = sum(port.nbytes for port in exe._layout.ports if port.role == "arena")
    if arena > 1 << 40:  # nothing fused it away
        with pytest.raises(MemoryError):
            exe(np.zeros(1_000_000, np.float32))


# C functions, and other ways out of the language.


def declaring(name: str, kind: str) -> str:
    return f"func.func private @{name}({kind}) -> i32\n{SAME}"


POINTERS = {
    "llvm dialect": "llvm.func @system(!llvm.ptr) -> i32\n" + SAME,
    "a pointer from a number": main(
        "%x: tensor<4xf32>",
        "%c = arith.constant 4096 : i64\n%p = llvm.inttoptr %c : i64 to !llvm.ptr\n"
        "%v = llvm.load %p : !llvm.ptr -> i64\nreturn %x : tensor<4xf32>",
    ),
    "instructions": main(
        "%x: tensor<4xf32>",
        'llvm.inline_asm has_side_effects "syscall", "" : () -> ()\nreturn %x : tensor<4xf32>',
    ),
    "a transform": "module attributes {transform.with_named_sequence} {\n" + SAME + """
      transform.named_sequence @__transform_main(%r: !transform.any_op) { transform.yield } }""",
    "kernels": "gpu.module @k { }\n" + SAME,
}  # fmt: skip


@pytest.mark.parametrize("name", ["system", "dlopen", "mlcflow_assertion_failed", "memcpy", "free"])
def test_c_functions_are_refused(name: str) -> None:
    text = declaring(name, "i64")
    with pytest.raises(ImportModelError, match=f"C function @{name}.*trusted=True"):
        mlcflow.compile(text)


def test_functions_of_numbers_are_not_refused() -> None:
    text = """
    func.func private @expm1(f64) -> f64
    func.func @main(%x: f64) -> f64 {
      %y = func.call @expm1(%x) : (f64) -> f64
      return %y : f64
    }"""
    for cache in (False, True):
        assert mlcflow.compile(text, cache=cache)(np.array(1e-9)) == np.expm1(1e-9)
    pointers = declaring("expm1", "tensor<4xf32>")
    with pytest.raises(ImportModelError, match="C function @expm1"):
        mlcflow.compile(pointers)


@pytest.mark.parametrize("name", POINTERS)
def test_other_dialects_are_refused(name: str) -> None:
    with pytest.raises(ImportModelError, match="this module is not trusted, and holds"):
        mlcflow.compile(POINTERS[name])


def test_variables_of_the_process_are_refused() -> None:
    """A memref.global without a value is a C variable: here, the environment."""
    body = """%g = memref.get_global @environ : memref<1xi64>
      %c = arith.constant 0 : index
      %v = memref.load %g[%c] : memref<1xi64>
      %t = tensor.from_elements %v : tensor<1xi64>
      return %t : tensor<1xi64>"""
    text = 'memref.global "private" @environ : memref<1xi64>\n' + main("", body, "tensor<1xi64>")
    for isolate in {False, is_supported()}:
        with pytest.raises(ExecutionError, match="not allowed: environ"):
            mlcflow.compile(text, isolate=isolate, cache=False)


def inject(text: str) -> Any:
    """A step that adds MLIR text, as a pipeline of somebody else might."""

    def step(module: mlir.ir.Module) -> None:
        with module.context, mlir.ir.Location.unknown():
            for op in mlir.ir.Module.parse(text).body.operations:
                module.body.append(op.operation.clone())

    return step


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("llvm.func @getpid() -> i32", "getpid"),
        ("llvm.mlir.global external @environ() : !llvm.ptr", "environ"),
        ('llvm.func @f() {\n llvm.inline_asm "nop", "" : () -> ()\n llvm.return }', "inline_asm"),
        ('llvm.func @f() {\n llvm.call_intrinsic "llvm.debugtrap"() : () -> ()\n llvm.return }',
         "llvm.debugtrap"),
        ("llvm.func @f() { llvm.return }\nllvm.mlir.global_ctors ctors = [@f], "
         "priorities = [0 : i32], data = [#llvm.zero]", "global_ctors"),
        ('llvm.func @f() attributes {passthrough = [["probe-stack", "system"]]} { llvm.return }',
         "passthrough"),
    ],
)  # fmt: skip
def test_the_last_module_is_looked_at_again(text: str, what: str) -> None:
    """Whatever put it there; ``trusted`` is the way to say that it is meant."""
    stages = reference.pipeline(Target.host()).stages
    pipeline = Pipeline("mine", (*stages, Stage("more", inject(text))))
    for isolate in {False, is_supported()}:
        with pytest.raises(ExecutionError, match=f"not allowed: .*{what}"):
            mlcflow.compile(SAME, pipeline=pipeline, isolate=isolate)
    if what in ("getpid", "environ"):
        exe = mlcflow.compile(SAME, pipeline=pipeline, trusted=True)
        assert (exe(np.ones(4, np.float32)) == 1).all()


def test_module_assembly_is_refused() -> None:
    def step(module: mlir.ir.Module) -> None:
        text = mlir.ir.StringAttr.get(".globl x", module.context)
        module.operation.attributes["llvm.module_asm"] = mlir.ir.ArrayAttr.get([text])

    stages = reference.pipeline(Target.host()).stages
    pipeline = Pipeline("mine", (*stages, Stage("more", step)))
    with pytest.raises(ExecutionError, match=r"not allowed: .*llvm\.module_asm"):
        mlcflow.compile(SAME, pipeline=pipeline)


def test_what_is_trusted_may_call_c() -> None:
    text = """
    llvm.func @getpid() -> i32
    func.func @main() -> i32 {
      %p = llvm.call @getpid() : () -> i32
      return %p : i32
    }"""
    assert mlcflow.compile(text, trusted=True)() == os.getpid()
    with pytest.raises(ImportModelError, match="llvm.call, llvm.func"):
        mlcflow.compile(text)


# What running can do: SECURITY.md says so, and it had better be true.

BEYOND = """
func.func @main(%x: tensor<4xf32>, %i: tensor<i64>) -> tensor<f32> {
  %k = tensor.extract %i[] : tensor<i64>
  %j = arith.index_cast %k : i64 to index
  {load}
  %t = tensor.from_elements %v : tensor<f32>
  return %t : tensor<f32>
}"""
UNCHECKED = """%m = bufferization.to_buffer %x read_only : tensor<4xf32> to memref<4xf32>
  %v = memref.load %m[%j] : memref<4xf32>"""


@needs_worker
@pytest.mark.parametrize("pipeline", ["reference", "cpu"])
def test_memory_beyond_an_array(pipeline: str) -> None:
    x = np.arange(4, dtype=np.float32)
    loads = BEYOND.replace("{load}", UNCHECKED)
    exe = mlcflow.compile(loads, pipeline=pipeline, cache=False)
    assert call_guarded(exe, x, np.array(3), edge="end")[0] == 3
    with pytest.raises(ExecutionError, match="reaches 0 bytes after the end of input"):
        call_guarded(exe, x, np.array(4), edge="end")
    checked = BEYOND.replace("{load}", "%v = tensor.extract %x[%j] : tensor<4xf32>")
    exe = mlcflow.compile(checked, pipeline=pipeline, cache=False)
    assert exe(x, np.array(3)) == 3
    with pytest.raises(ExecutionError, match="index"):
        exe(x, np.array(4))


# The cache: what is in it is run.

needs_cache = pytest.mark.skipif(not object_code.is_available(), reason="needs llvmlite")


def test_what_an_object_calls() -> None:
    """Read from the file itself: LLVM may have been told of a function in a way unknown to us."""
    module = mlir.parse(SAME)
    stages = reference.pipeline(Target.host()).stages
    call = """llvm.func @getpid() -> i32
      llvm.func @user() -> i32 { %p = llvm.call @getpid() : () -> i32
      llvm.return %p : i32 }"""
    Pipeline("r", (*stages, Stage("more", inject(call)))).run(module)
    code = store(module, 1).code
    if code.startswith(b"\x7fELF"):
        found = object_code.undefined_symbols(code)
        assert "getpid" in found and "main" not in found
        with pytest.raises(ExecutionError, match="not allowed: getpid"):
            symbols.refuse_symbols(found)
        for length in range(64, len(code), 97):
            with suppress(ExecutionError):
                object_code.undefined_symbols(code[:length])


@needs_cache
def test_a_program_of_the_cache_that_calls_more(tmp_path: Path) -> None:
    """Made for who was trusted, asked for by who is not; and what only looks like an entry."""
    text = "func.func private @toupper(i32) -> i32\n" + main(
        "%x: i32", "%y = func.call @toupper(%x) : (i32) -> i32\nreturn %y : i32", "i32"
    )
    assert mlcflow.compile(text, cache=tmp_path / "c", trusted=True)(np.array(97, "i")) == 65
    with pytest.raises(ImportModelError, match="C function @toupper"):
        mlcflow.compile(text, cache=tmp_path / "c")
    [entry] = (tmp_path / "c").iterdir()
    cache = Cache(tmp_path / "c")
    program = from_bytes(cache.read(entry.stem) or b"")
    assert "toupper" in program.symbols
    imported = read_model(SAME)
    assert cached._load(program, imported, Stages(()), build_pipeline("cpu"), None) is None
    os.link(entry, tmp_path / "c" / "hard")
    with pytest.raises(Refused, match="has another name elsewhere"):
        cache.read(entry.stem)
    (tmp_path / "c" / "hard").unlink()
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="not a link"):
        cache.read(entry.stem)


@needs_cache
def test_stored_programs_that_are_damaged() -> None:
    """As if the hash of the entry had been made to fit."""
    module = mlir.parse(MATMUL)
    reference.pipeline(Target.host()).run(module)
    data = store(module, 1).to_bytes()
    length = int.from_bytes(data[:8], "little")
    for seed in range(200):
        wrong = damaged(seed, data[: 8 + length]) + data[8 + length :]
        try:
            from_bytes(wrong)
        except ValueError:
            continue


# Files beside the one that was named.


def test_arrays_are_never_pickles(tmp_path: Path) -> None:
    from mlcflow.tools.model_file import read_arrays

    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    np.save(tmp_path / "x.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    with pytest.raises(MlcflowError, match="not a .npy file of numbers"):
        read_arrays((str(tmp_path / "x.npy"),))
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (10**12,)")
    with pytest.raises(MlcflowError, match="not a .npy file of numbers"):
        read_arrays((str(tmp_path / "y.npy"),))
    assert not (tmp_path / "harm").exists()


def test_text_names_no_other_file(tmp_path: Path) -> None:
    """Resources are in the module itself; no attribute is followed to a file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    text = main("", f"""%c = arith.constant dense_resource<"{secret}"> : tensor<4xf32>
      return %c : tensor<4xf32>""")  # fmt: skip
    with pytest.raises(MlcflowError):
        mlcflow.compile(text, isolate=is_supported())
    library = Pass("transform-preload-library", transform_library_paths=str(secret))
    assert not any(library.name in str(s.steps) for s in reference.pipeline(Target.host()).stages)
