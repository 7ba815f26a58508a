"""Arithmetic on single-precision numbers, one or a vector of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlcflow.mlir import arith, ir, math

_WIDTHS = {"f32": 32, "f64": 64}


@dataclass(frozen=True)
class Lanes:
    """Makes operations at the insertion point, on numbers of one type.

    ``shape`` is that of the vector, ``None`` for a scalar; ``element`` is ``f32`` or ``f64``.
    Without ``has_fma`` a multiplication and an addition stand for the fused one, which costs
    accuracy: the stated errors hold with it.
    """

    shape: tuple[int, ...] | None
    element: str
    has_fma: bool

    @staticmethod
    def of(kind: ir.Type, *, has_fma: bool) -> Lanes:
        """Those of a type: ``f32``, ``f64`` or a vector of them."""
        if isinstance(kind, ir.VectorType):
            return Lanes(tuple(kind.shape), str(kind.element_type), has_fma)
        return Lanes(None, str(kind), has_fma)

    def with_element(self, element: str) -> Lanes:
        """As many numbers of another type."""
        return Lanes(self.shape, element, self.has_fma)

    @property
    def type(self) -> ir.Type:
        """The type of the numbers."""
        return self._shaped(ir.F32Type.get() if self.element == "f32" else ir.F64Type.get())

    @property
    def bits_type(self) -> ir.Type:
        """Integers as wide as the numbers."""
        return self._shaped(ir.IntegerType.get_signless(_WIDTHS[self.element]))

    def _shaped(self, element: ir.Type) -> ir.Type:
        return element if self.shape is None else ir.VectorType.get(list(self.shape), element)

    def number(self, value: float) -> ir.Value:
        """A constant."""
        element = ir.F32Type.get() if self.element == "f32" else ir.F64Type.get()
        return self._constant(self.type, ir.FloatAttr.get(element, value))

    def integer(self, value: int) -> ir.Value:
        """A constant integer as wide as the numbers."""
        element = ir.IntegerType.get_signless(_WIDTHS[self.element])
        return self._constant(self.bits_type, ir.IntegerAttr.get(element, value))

    def _constant(self, kind: ir.Type, value: ir.Attribute) -> ir.Value:
        if self.shape is not None:
            value = ir.DenseElementsAttr.get_splat(kind, value)
        return arith.constant(kind, value)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, rounded once."""
        return math.fma(a, b, c) if self.has_fma else arith.addf(arith.mulf(a, b), c)

    def polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """Horner's scheme; the constant term first."""
        *rest, last = coefficients
        result = self.number(last)
        for coefficient in reversed(rest):
            result = self.fma(result, x, self.number(coefficient))
        return result

    def bits(self, x: ir.Value) -> ir.Value:
        """The representation of ``x``."""
        return arith.bitcast(self.bits_type, x)

    def from_bits(self, n: ir.Value) -> ir.Value:
        """The number of a representation."""
        return arith.bitcast(self.type, n)

    def shift_left(self, n: ir.Value, count: int) -> ir.Value:
        """``n * 2**count``; what leaves at the left is lost."""
        return arith.shli(n, self.integer(count))

    def shift_right(self, n: ir.Value, count: int) -> ir.Value:
        """``floor(n / 2**count)`` of a signed number."""
        return arith.shrsi(n, self.integer(count))

    def compare(self, predicate: str, x: ir.Value, y: float | ir.Value) -> ir.Value:
        """``olt``, ``ogt``, ``oeq``, ``une``, ...: false for NaN where they begin with ``o``."""
        other = y if isinstance(y, ir.Value) else self.number(y)
        return arith.cmpf(arith.CmpFPredicate[predicate.upper()], x, other)

    def at_most(self, x: ir.Value, limit: float) -> ir.Value:
        """The smaller of both; NaN stays NaN. One instruction on x86."""
        return arith.select(self.compare("ogt", x, limit), self.number(limit), x)

    def at_least(self, x: ir.Value, limit: float) -> ir.Value:
        """The larger of both; NaN stays NaN."""
        return arith.select(self.compare("olt", x, limit), self.number(limit), x)

    def where(self, condition: ir.Value, value: float | ir.Value, other: ir.Value) -> ir.Value:
        """``value`` where the condition holds, ``other`` elsewhere."""
        chosen = value if isinstance(value, ir.Value) else self.number(value)
        return arith.select(condition, chosen, other)
