"""Products of bf16 and i8 for the tests of dot products, and what they compute in float64."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from mlcflow import Target, mlir
from mlcflow.compiler import build_pipeline, load
from mlcflow.frontends import Imported
from mlcflow.graph.dots import missing_feature
from mlcflow.mlir import clone, ir
from mlcflow.schedule.program import load_program
from mlcflow.schedule.schedule import Schedule

BF16, I8 = "bf16", "i8"
WIDTH = {BF16: 2, I8: 4}
needs = {
    kind: pytest.mark.skipif(
        bool(missing_feature(kind, Target.host())), reason=f"needs dot products of {kind}"
    )
    for kind in (BF16, I8)
}


@dataclass(frozen=True)
class Product:
    """``c + a @ b`` of ``kind``; ``a`` is one row where ``m`` is 0."""

    kind: str
    m: int
    n: int
    k: int

    @property
    def text(self) -> str:
        result = "f32" if self.kind == BF16 else "i32"
        rows = f"{self.m}x" if self.m else ""
        a, b = f"tensor<{rows}{self.k}x{self.kind}>", f"tensor<{self.k}x{self.n}x{self.kind}>"
        c = f"tensor<{rows}{self.n}x{result}>"
        name = "matmul" if self.m else "vecmat"
        return f"""
func.func @main(%a: {a}, %b: {b}, %c: {c}) -> {c} {{
  %r = linalg.{name} ins(%a, %b : {a}, {b}) outs(%c : {c}) -> {c}
  return %r : {c}
}}"""

    def schedule(self) -> tuple[ir.Module, Schedule]:
        module = mlir.parse(self.text)
        return module, Schedule(module)

    def inputs(self) -> list[np.ndarray]:
        """Half of the i8 are the smallest and the largest that there are."""
        random = np.random.default_rng(0)
        shapes = [(self.m, self.k), (self.k, self.n), (self.m, self.n)]
        shapes = [shape if shape[0] else shape[1:] for shape in shapes]
        if self.kind == BF16:
            a, b, c = (random.standard_normal(shape) for shape in shapes)
            return [a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16), np.float32(c)]
        a, b, c = (random.integers(-256, 256, shape) for shape in shapes)
        return [np.int8(np.clip(a, -128, 127)), np.int8(np.clip(b, -128, 127)), np.int32(c)]

    def check(self, module: ir.Module, *, target: Target | None = None, reference: bool) -> None:
        """i8 are exact. Each f32 sum of bf16 products is rounded, as often as there are terms."""
        if reference:
            options = {"opt_level": 0}
            executable = load(Imported(clone(module)), build_pipeline("reference", options=options))
        else:
            executable = load_program(module, target)
        inputs = self.inputs()
        a, b, c = (value.astype(np.float64) for value in inputs)
        wanted, got = c + a @ b, executable(*inputs)
        if self.kind == I8:
            np.testing.assert_array_equal(got, wanted)
        else:
            bound = (self.k + 1) * 2.0**-24 * (abs(c) + abs(a) @ abs(b))
            assert np.all(abs(got - wanted) <= bound)
