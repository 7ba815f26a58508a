"""From kernels in the NVVM dialect to PTX, through llvmlite."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mlcflow.errors import LoweringError, MlcflowError
from mlcflow.gpu.llvm_text import mark_convergent, rewrite_constants
from mlcflow.mlir import gpu, ir, llvm, walk
from mlcflow.target import Target

BINARY = "kernels"
"""The name of the ``gpu.binary`` that holds the PTX of a module."""

_ASSEMBLY = 2  # gpu.object in format "assembly"
_TRANSLATED = ("llvm.", "nvvm.", "gpu.module")
_INSTALL = "pip install 'mlcflow[cuda]'"


def kernels_to_ptx(target: Target) -> Callable[[ir.Module], None]:
    """A step that replaces the ``gpu.module`` operations of a module by one ``gpu.binary``.

    The binary holds PTX for ``target`` as text, optimized by LLVM, mathematics of libdevice
    included. Raises ``LoweringError`` for what LLVM cannot translate, ``MlcflowError`` where
    llvmlite or libdevice is not installed.
    """

    def compile_kernels(module: ir.Module) -> None:
        kernels = [op for op in module.body.operations if isinstance(op, gpu.GPUModuleOp)]
        if not kernels:
            return
        text = compile_to_ptx([_translate(op) for op in kernels], target)
        for op in kernels:
            op.operation.erase()
        for op in walk(module.operation):
            if isinstance(op, gpu.LaunchFuncOp):
                op.attributes["kernel"] = ir.SymbolRefAttr.get([BINARY, kernel_of(op)])
        features = ",".join(f"+{name}" for name in target.features)
        kind = f'#nvvm.target<O = 3, chip = "{target.chip}", features = "{features}">'
        with ir.InsertionPoint(module.body):
            code = gpu.ObjectAttr.get(ir.Attribute.parse(kind), _ASSEMBLY, text.encode() + b"\0")
            # Without a handler the translation to LLVM crashes.
            handler = ir.Attribute.parse("#gpu.select_object")
            gpu.BinaryOp(BINARY, ir.ArrayAttr.get([code]), offloadingHandler=handler)

    return compile_kernels


def ptx_of(module: ir.Module) -> str:
    """The PTX in a module; empty if it has none."""
    for op in module.body.operations:
        if isinstance(op, gpu.BinaryOp):
            return bytes(gpu.ObjectAttr(ir.ArrayAttr(op.objects)[0]).object).rstrip(b"\0").decode()
    return ""


def kernel_of(launch: gpu.LaunchFuncOp) -> str:
    """The name of the kernel that is launched."""
    return str(ir.SymbolRefAttr(launch.attributes["kernel"]).value[-1])


def _translate(module: gpu.GPUModuleOp) -> str:
    """LLVM IR of a ``gpu.module``; what is not lowered would crash the translation."""
    left = {op.operation.name: op for op in walk(module)}
    left = {name: op for name, op in left.items() if not name.startswith(_TRANSLATED)}
    if left:
        op = next(iter(left.values()))
        raise LoweringError(
            f"a kernel is not lowered to the NVVM dialect: {', '.join(sorted(left))} remain",
            op=str(op).split("\n")[0],
            location=str(op.location),
        )
    text = llvm.translate_module_to_llvmir(module.operation)
    return mark_convergent(rewrite_constants(text))


def compile_to_ptx(texts: list[str], target: Target) -> str:
    """PTX of modules of LLVM IR, linked into one."""
    binding = _llvmlite()
    machine = binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.chip, features=",".join(f"+{name}" for name in target.features), opt=3
    )
    whole = binding.parse_assembly("")
    whole.triple, whole.data_layout = target.triple, str(machine.target_data)
    for text in texts:
        whole.link_in(_parse(binding, text, whole))
    kernels = {function.name for function in whole.functions if not function.is_declaration}
    if any(function.name.startswith("__nv_") for function in whole.functions):
        whole.link_in(_parse(binding, libdevice().read_bytes(), whole))
    _close(whole, kernels)
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(3))
    builder.getModulePassManager().run(whole, builder)
    return str(machine.emit_assembly(whole))


def _parse(binding: ModuleType, source: str | bytes, whole: Any) -> Any:
    parse = binding.parse_assembly if isinstance(source, str) else binding.parse_bitcode
    module = parse(source)
    module.triple, module.data_layout = whole.triple, whole.data_layout
    return module


def _close(whole: Any, kernels: set[str]) -> None:
    """Keep what a launch names; what is called and not there is an error."""
    missing = []
    for function in whole.functions:
        if not function.is_declaration:
            if function.name not in kernels:
                function.linkage = "internal"
        elif not function.name.startswith(("llvm.", "__nvvm_reflect")):
            missing.append(function.name)
    if missing:
        raise LoweringError(f"kernels call functions that a GPU lacks: {', '.join(missing)}")


@cache
def _llvmlite() -> ModuleType:
    """llvmlite's binding with its code generators; it is not loaded before a GPU needs it."""
    try:
        import llvmlite.binding as binding
    except ImportError as error:
        raise MlcflowError(f"code for GPUs needs llvmlite: {_INSTALL}") from error
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return binding


@cache
def _packages() -> list[Path]:
    """Where the packages of NVIDIA are installed."""
    found = importlib.util.find_spec("nvidia")
    return [Path(path) for path in (found.submodule_search_locations if found else None) or []]


def _find(name: str) -> Path | None:
    return next((path for folder in _packages() for path in sorted(folder.rglob(name))), None)


@cache
def libdevice() -> Path:
    """NVIDIA's library of mathematics, as LLVM bitcode."""
    found = _find("libdevice.10.bc")
    if found is None:
        raise MlcflowError(f"mathematics on a GPU needs libdevice: {_INSTALL}")
    return found


@dataclass(frozen=True)
class Resources:
    """What a kernel takes: registers of a thread, bytes it spills, shared bytes of a block."""

    registers: int
    spills: int
    shared: int
    loss: str = ""


def assemble(
    ptx: str, target: Target, shared: Mapping[str, int] | None = None
) -> dict[str, Resources]:
    """What ``ptxas`` says of each kernel: proof that the PTX is code for ``target``.

    ``shared``: bytes of shared memory that launches bring, by kernel, of which it cannot know; see
    ``mlcflow.gpu.host_calls.shared_of``.

    Raises ``LoweringError`` with its words when it is not, ``MlcflowError`` without ``ptxas``.
    """
    program = ptxas()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [str(program), "-v", f"-arch={target.chip}", str(source), "-o", f"{folder}/cubin"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LoweringError(f"ptxas refuses the PTX: {result.stderr.strip()}")
    return _resources(result.stderr, shared or {})


def ptxas() -> Path:
    """NVIDIA's assembler of PTX. Raises ``MlcflowError`` when it is not installed."""
    found = _find("ptxas") or _find("ptxas.exe")
    if found is None:
        raise MlcflowError(f"to assemble PTX needs ptxas: {_INSTALL}")
    return found


def has_ptxas() -> bool:
    """Whether :func:`assemble` works here."""
    return (_find("ptxas") or _find("ptxas.exe")) is not None


def _resources(report: str, brought: Mapping[str, int]) -> dict[str, Resources]:
    found = {}
    losses = {name: text for text, name in re.findall(r"\((C75\d\d\) .*'(.*)')", report)}
    for part in report.split("Compiling entry function '")[1:]:
        numbers = {
            key: sum(int(n) for n in re.findall(pattern, part))
            for key, pattern in {
                "registers": r"Used (\d+) registers",
                "spills": r"(\d+) bytes spill",
                "shared": r"(\d+) bytes smem",
            }.items()
        }
        name = part.split("'")[0]
        numbers["shared"] += brought.get(name, 0)
        found[name] = Resources(**numbers, loss=losses.get(name, ""))
    return found
