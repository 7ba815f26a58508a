"""ONNX Runtime, with inputs and outputs bound ahead of the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: F401  the export needs both, and what it lacks is told early
import onnxruntime
import onnxscript  # noqa: F401

from mlcflow.bench.onnx_export import export_onnx
from mlcflow.bench.sides import Loaded

VERSION = onnxruntime.__version__


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """A session with all graph optimizations, which are its default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = str(export_onnx(model, example, folder))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()

    def bind(inputs: list[np.ndarray]) -> Any:
        binding.clear_binding_inputs()
        for port, array in zip(session.get_inputs(), inputs, strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(port.name, value)
        binding.clear_binding_outputs()
        for port in session.get_outputs():
            binding.bind_output(port.name, "cpu")
        session.run_with_iobinding(binding)  # allocates the results; further calls write there
        results = binding.get_outputs()
        for port, value in zip(session.get_outputs(), results, strict=True):
            binding.bind_ortvalue_output(port.name, value)

        def call() -> Any:
            session.run_with_iobinding(binding)
            return results

        return call

    return Loaded(bind, lambda results: [value.numpy() for value in results])
