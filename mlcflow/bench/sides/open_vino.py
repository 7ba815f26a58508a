"""OpenVINO, which reads PyTorch models itself, or else their ONNX export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would call home
import openvino  # noqa: E402

from mlcflow.bench.onnx_export import export_onnx  # noqa: E402
from mlcflow.bench.sides import Loaded  # noqa: E402

VERSION = openvino.__version__.split("-")[0]


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """Compiled for one request at a time, in the precision of the model."""
    try:
        converted = openvino.convert_model(model, example_input=example)
    except openvino.frontend.OpConversionFailure:  # its reader of ONNX knows more
        converted = openvino.convert_model(str(export_onnx(model, example, folder)))
    converted.reshape(
        {port: list(value.shape) for port, value in zip(converted.inputs, example, strict=True)}
    )
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # on some machines the default is bf16
    }
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    request = compiled.create_infer_request()
    count = len(compiled.outputs)

    def bind(inputs: list[np.ndarray]) -> Any:
        for number, array in enumerate(inputs):
            request.set_input_tensor(number, openvino.Tensor(array, shared_memory=True))

        def call() -> Any:
            request.infer(share_outputs=True)
            return [request.get_output_tensor(number) for number in range(count)]

        return call

    return Loaded(bind, lambda results: [tensor.data for tensor in results])
