"""TVM's Relax for processors, with its default schedules: tuning takes hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from mlcflow.bench.sides import Loaded

VERSION = tvm.__version__


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """Compiled for this processor, with weights in the program."""
    tvm.get_global_func("runtime.config_threadpool")(1, threads)
    with torch.no_grad():
        program = torch.export.export(model, example).run_decompositions()
        module = from_exported_program(program, keep_params_as_input=False)
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    with target:
        compiled = tvm.compile(module, target)
    machine, device = relax.VirtualMachine(compiled, tvm.cpu()), tvm.cpu()
    main = machine["main"]

    def bind(inputs: list[np.ndarray]) -> Any:
        arrays = [tvm.runtime.tensor(array, device) for array in inputs]
        return lambda: main(*arrays)

    return Loaded(bind, lambda results: [each.numpy() for each in results])
