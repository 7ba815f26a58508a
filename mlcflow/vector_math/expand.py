"""The step that writes mathematical functions out in arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mlcflow.mlir import arith, ir, vector, walk
from mlcflow.target import Target
from mlcflow.vector_math.bounds import AT_MOST_ZERO
from mlcflow.vector_math.erf import erf
from mlcflow.vector_math.exponential import exp, exp2, exp2_below_one, expm1
from mlcflow.vector_math.hyperbolic import tanh
from mlcflow.vector_math.lanes import Lanes
from mlcflow.vector_math.logarithm import LOGARITHMS
from mlcflow.vector_math.power import powf
from mlcflow.vector_math.trigonometry import cos, sin

Function = Callable[..., ir.Value]
"""Makes the operations that compute a function of its arguments; takes ``Lanes`` first."""

FUNCTIONS: dict[str, Function] = {
    "math.cos": cos,
    "math.erf": erf,
    "math.exp": exp,
    "math.exp2": exp2,
    "math.expm1": expm1,
    "math.powf": powf,
    "math.sin": sin,
    "math.tanh": tanh,
    **LOGARITHMS,
}
"""What is written out. The others have instructions (``sqrt``, ``fma``, ``floor``), follow from
them (``rsqrt``), or are left to the C library."""

BELOW_ONE: dict[str, Function] = {"math.exp2": exp2_below_one}
"""Those that take less when their arguments are known to be ``AT_MOST_ZERO``."""

_NARROW = ("f16", "bf16")


def expand_math(target: Target) -> Callable[[ir.Module], None]:
    """A step that replaces ``FUNCTIONS`` of single-precision numbers by polynomials.

    Scalars and vectors get the same operations, so a result does not depend on whether its
    loop was vectorized. Vectors of several dimensions are computed row by row, numbers of half
    precision in single precision; those of double precision are left to the C library.
    """
    has_fma = not target.triple.startswith("x86") or "fma" in target.features

    def expand_math_functions(module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.operation.name in FUNCTIONS and _element(op.results[0].type) in ("f32", *_NARROW):
                function = FUNCTIONS[op.operation.name]
                if AT_MOST_ZERO in op.operation.attributes:
                    function = BELOW_ONE[op.operation.name]
                with ir.InsertionPoint(op), op.location:
                    result = _expand(function, list(op.operands), has_fma)
                op.results[0].replace_all_uses_with(result)
                op.operation.erase()

    return expand_math_functions


def _element(kind: ir.Type) -> str:
    return str(kind.element_type if isinstance(kind, ir.VectorType) else kind)


def _expand(function: Function, operands: Sequence[ir.Value], has_fma: bool) -> ir.Value:
    kind = operands[0].type
    if _element(kind) in _NARROW:
        f32 = ir.F32Type.get()
        wide = ir.VectorType.get(kind.shape, f32) if isinstance(kind, ir.VectorType) else f32
        widened = [arith.extf(wide, value) for value in operands]
        return arith.truncf(kind, _expand(function, widened, has_fma))
    if not isinstance(kind, ir.VectorType) or len(kind.shape) < 2:
        return function(Lanes.of(kind, has_fma=has_fma), *operands)
    return _by_rows(function, operands, has_fma)


def _by_rows(function: Function, operands: Sequence[ir.Value], has_fma: bool) -> ir.Value:
    """Row by row: the intermediate results of one fit into registers."""
    kind = operands[0].type
    *outer, columns = kind.shape
    row = ir.VectorType.get([columns], kind.element_type)
    zero = ir.DenseElementsAttr.get_splat(kind, ir.FloatAttr.get(kind.element_type, 0.0))
    result = arith.constant(kind, zero)
    for number in range(math.prod(outer)):
        position: list[int] = []
        for extent in reversed(outer):
            number, place = divmod(number, extent)
            position.insert(0, place)
        rows = [vector.extract(value, [], position) for value in operands]
        value = function(Lanes.of(row, has_fma=has_fma), *rows)
        result = vector.insert(value, result, [], position)
    return result
