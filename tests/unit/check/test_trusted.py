"""The ways to run a module that others are compared with agree, and large models stay small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlcflow import mlir
from mlcflow.check.separate import separate_loops
from mlcflow.check.trusted import call, in_float64, load_reference
from mlcflow.compiler import build_pipeline, import_model
from mlcflow.errors import ExecutionError
from mlcflow.graph.interface import normalize_interface
from mlcflow.graph.outline import kernels
from mlcflow.mlir import ir
from mlcflow.tools.model_file import as_array


def imported_text(model, *inputs: torch.Tensor) -> tuple[str, dict]:
    imported = import_model(model, inputs)
    module = imported.module
    with module.context, ir.Location.unknown():
        normalize_interface(module)
    return mlir.asm(module), dict(imported.parameters)


class Layers(torch.nn.Module):
    """Equal layers, that write into a buffer as they go."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(5))
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(x.sum())
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def test_equal_loop_nests_are_one_function() -> None:
    text, _ = imported_text(Layers(), torch.ones(3, 6))
    module = mlir.parse(text)
    build_pipeline("reference").run(module, until="bufferize")
    before = str(module).count("linalg.")
    with module.context, ir.Location.unknown():
        separate_loops(module)
    assert module.operation.verify()
    assert 0 < len(kernels(module)) <= before // 3
    main = next(op for op in module.body.operations if op.name.value == "main")
    assert not any(op.operation.name.startswith("linalg.") for op in mlir.walk(main))


CASES = {
    "layers": (Layers(), torch.randn(3, 6)),
    "bytes": (lambda x: (x // 3 + 120, x.float().mean()), torch.arange(200, 230).to(torch.uint8)),
    "bfloat16": (lambda x: (x * 3, x), torch.randn(7).to(torch.bfloat16)),
    "complex": (lambda x: x * x, torch.randn(5, dtype=torch.complex64)),
    "rounded": (lambda x: x.round().to(torch.int32), torch.randn(9) * 10),
}


@pytest.mark.parametrize("name", CASES)
def test_float64_is_what_the_reference_rounds(name: str) -> None:
    model, x = CASES[name]
    text, parameters = imported_text(model, x)
    array = as_array(x)
    narrow = call(load_reference(mlir.parse(text), parameters, 0), [array])
    exact = in_float64(mlir.parse(text), parameters, 0)([array])
    assert [e.shape for e in exact] == [n.shape for n in narrow]
    for e, n in zip(exact, narrow, strict=True):
        if n.dtype.kind in "iub":
            np.testing.assert_array_equal(e, n)
        else:
            assert e.dtype in (np.float64, np.complex128)
            np.testing.assert_allclose(e, n.astype(e.dtype), rtol=1e-2, atol=1e-5)


def test_what_must_not_run_does_not() -> None:
    text = """
    func.func private @system(i32) -> i32
    func.func @main(%x: tensor<i32>) -> tensor<i32> {
      %a = tensor.extract %x[] : tensor<i32>
      %b = func.call @system(%a) : (i32) -> i32
      %y = tensor.from_elements %b : tensor<i32>
      return %y : tensor<i32>
    }
    """
    with pytest.raises(ExecutionError, match="system"):
        load_reference(mlir.parse(text), {}, 0)
