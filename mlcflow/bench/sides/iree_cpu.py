"""IREE for processors, through ONNX."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import iree.compiler.tools
import iree.runtime
import numpy as np
import onnx  # noqa: F401  the export needs both, and what it lacks is told early
import onnxscript  # noqa: F401

from mlcflow.bench.onnx_export import export_onnx
from mlcflow.bench.sides import Loaded
from mlcflow.errors import MlcflowError

VERSION = version("iree-base-compiler")

FLAGS = [
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-level=O3",
    "--iree-opt-data-tiling",
    # Some of its own tiles of attention are larger than its limit.
    "--iree-llvmcpu-fail-on-out-of-bounds-stack-allocation=false",
]


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """Compiled for this processor at its highest level, with weights in the program."""
    path = export_onnx(model, example, folder)
    text = path.with_suffix(".mlir")
    importer = [sys.executable, "-m", "iree.compiler.tools.import_onnx"]
    done = subprocess.run(
        [*importer, str(path), "--opset-version=17", "-o", str(text)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MlcflowError(f"import of ONNX: {done.stderr.strip().splitlines()[-1]}")
    try:
        program = iree.compiler.tools.compile_file(
            str(text), input_type="onnx", target_backends=["llvm-cpu"], extra_args=FLAGS
        )
    except iree.compiler.tools.CompilerToolError as error:
        lines = [line for line in str(error).splitlines() if "error:" in line]
        raise MlcflowError(lines[0].strip() if lines else "iree-compile failed") from error
    iree.runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
    config = iree.runtime.Config("local-task" if threads > 1 else "local-sync")
    module = iree.runtime.VmModule.copy_buffer(config.vm_instance, program)
    loaded = iree.runtime.load_vm_module(module, config)
    name = next(
        name for name in module.function_names if not name.startswith("__") and "$" not in name
    )
    function = loaded[name]

    def bind(inputs: list[np.ndarray]) -> Any:
        arrays = [iree.runtime.asdevicearray(config.device, array) for array in inputs]

        def call() -> list[np.ndarray]:
            results = function(*arrays)
            many = results if isinstance(results, list | tuple) else [results]
            return [np.asarray(each.to_host()) for each in many]

        return call

    return Loaded(bind, list)
