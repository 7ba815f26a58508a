"""From a module to what can be loaded, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlcflow.frontends import Imported
from mlcflow.gpu.executable import DeviceExecutable
from mlcflow.gpu.host_calls import has_kernels
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, StageRecord, Stages
from mlcflow.runtime.executable import Executable
from mlcflow.runtime.interface import check_ports, read_interface
from mlcflow.runtime.machine_code import store
from mlcflow.runtime.object_code import undefined_symbols
from mlcflow.runtime.stored import StoredProgram
from mlcflow.runtime.symbols import refuse_module, refuse_symbols


@dataclass(frozen=True)
class Compiled:
    """What a pipeline and LLVM made of a model.

    ``program`` is ``None`` for a module with kernels of a device, which is loaded as it is.
    """

    program: StoredProgram | None
    stages: Stages | Callable[[], Stages]
    module: Callable[[], ir.Module]


def stored(module: ir.Module, imported: Imported, built: Pipeline) -> StoredProgram:
    """A lowered module, compiled. Raises ``ExecutionError`` for what must not be loaded."""
    program = store(module, built.opt_level)
    if not imported.trusted:  # LLVM is told of functions in more ways than we know
        refuse_symbols(undefined_symbols(program.code))
    return program


def check_lowered(module: ir.Module, imported: Imported) -> None:
    """Raise ``ExecutionError`` for a lowered module that cannot, or must not, be loaded."""
    if not imported.trusted:
        refuse_module(module)
    if not has_kernels(module):  # their constants are parameters that only the module knows
        check_ports(read_interface(module)[0], imported.parameters)


def compile_here(imported: Imported, built: Pipeline) -> Compiled:
    """Compile in this process."""
    stages = built.run(imported.module)
    check_lowered(imported.module, imported)
    return Compiled(stored(imported.module, imported, built), stages, lambda: imported.module)


def load(
    imported: Imported,
    pipeline: Pipeline,
    *,
    start: str | None = None,
    threads: int | None = None,
    on_stage: Callable[[StageRecord], None] | None = None,
) -> Executable:
    """Run the pipeline (from stage ``start``) and load the machine code."""
    stages = pipeline.run(imported.module, start=start, on_stage=on_stage)
    check_lowered(imported.module, imported)
    loaded = DeviceExecutable if has_kernels(imported.module) else Executable
    return loaded(imported.module, imported, stages, pipeline, threads)
