"""Elementwise operations as ``scale * x + shift``, with a scale and a shift for each channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlcflow.graph.generic import dims, generic
from mlcflow.graph.linalg_ops import elements, indexing_maps, inputs, owner
from mlcflow.mlir import arith, ir, tensor


@dataclass(frozen=True, eq=False)
class Term:
    """A number for each channel: ``value`` itself, or an operation on other terms.

    ``value`` is a tensor of one number a channel, of one number for all of them, or a scalar.
    ``operation`` is ``arith.addf``, or another by name, which ``source`` is an example of.
    """

    value: ir.Value | None = None
    operation: str = ""
    operands: tuple[Term, ...] = ()
    source: ir.OpView | None = None


ZERO, ONE = Term(operation="zero"), Term(operation="one")


def plus(a: Term, b: Term) -> Term:
    """Their sum."""
    return b if a == ZERO else a if b == ZERO else Term(None, "arith.addf", (a, b))


def times(a: Term, b: Term) -> Term:
    """Their product."""
    if ZERO in (a, b):
        return ZERO
    return b if a == ONE else a if b == ONE else Term(None, "arith.mulf", (a, b))


def minus(a: Term) -> Term:
    """The negative."""
    return ZERO if a == ZERO else Term(None, "arith.negf", (a,))


def over(a: Term, b: Term) -> Term:
    """Their quotient."""
    return ZERO if a == ZERO else Term(None, "arith.divf", (a, b))


@dataclass(frozen=True)
class Line:
    """``scale * x + shift``."""

    scale: Term = ONE
    shift: Term = ZERO

    def then(self, other: Line) -> Line:
        """``other`` of this."""
        return Line(
            times(other.scale, self.scale), plus(times(other.scale, self.shift), other.shift)
        )


def read_line(op: ir.OpView, x: ir.Value, channel: int) -> Line | None:
    """What an elementwise ``op`` does to its operand ``x``, read in order; ``None`` if no line.

    Its other operands have one number for each position of loop ``channel``, or one for all.
    """
    block = op.operation.regions[0].blocks[0]
    known: dict[ir.Value, Line] = {}
    for number, (value, affine_map) in enumerate(zip(inputs(op), indexing_maps(op), strict=False)):
        if value == x:
            known[block.arguments[number]] = Line()
        elif _is_per_channel(value, affine_map, channel):
            known[block.arguments[number]] = Line(ZERO, Term(value))
    for inner in block.operations:
        operands = [known.get(v) or _constant(v) for v in inner.operands]
        found = [line for line in operands if line is not None]
        if len(found) != len(operands):
            return None
        if inner.operation.name == "linalg.yield":
            return found[0] if len(found) == 1 else None
        line = _apply(inner, found)
        if line is None or len(inner.results) != 1:
            return None
        known[inner.results[0]] = line
    return None


def _is_per_channel(value: ir.Value, affine_map: ir.AffineMap, channel: int) -> bool:
    if not isinstance(value.type, ir.RankedTensorType):
        return not isinstance(value.type, ir.ShapedType)
    loops = [e.position for e in affine_map.results if isinstance(e, ir.AffineDimExpr)]
    count = elements(value.type)
    wide = [size for size in ir.RankedTensorType(value.type).shape if size != 1]
    return count == 1 or (channel in loops and len(wide) == 1 and loops.count(channel) == 1)


def _constant(value: ir.Value) -> Line | None:
    producer = owner(value)
    if producer is None or producer.operation.name != "arith.constant":
        return None
    return Line(ZERO, Term(value))


def _apply(op: ir.OpView, lines: Sequence[Line]) -> Line | None:
    name, first = op.operation.name, lines[0] if lines else Line()
    if all(line.scale == ZERO for line in lines):
        if not name.startswith(("arith.", "math.")):
            return None
        return Line(ZERO, Term(None, name, tuple(line.shift for line in lines), op))
    second = lines[1] if len(lines) == 2 else Line()
    if name == "arith.addf":
        return Line(plus(first.scale, second.scale), plus(first.shift, second.shift))
    if name == "arith.subf":
        negative = Line(minus(second.scale), minus(second.shift))
        return Line(plus(first.scale, negative.scale), plus(first.shift, negative.shift))
    if name == "arith.negf":
        return Line(minus(first.scale), minus(first.shift))
    if name == "arith.mulf" and ZERO in (first.scale, second.scale):
        line, factor = (first, second) if second.scale == ZERO else (second, first)
        return Line(times(line.scale, factor.shift), times(line.shift, factor.shift))
    if name == "arith.divf" and second.scale == ZERO:
        return Line(over(first.scale, second.shift), over(first.shift, second.shift))
    return None


def leaves(term: Term) -> list[ir.Value]:
    """The tensors and scalars that a term is made of, each once."""
    found = [term.value] if term.value is not None else []
    return list(dict.fromkeys([*found, *(v for part in term.operands for v in leaves(part))]))


def emit(term: Term, count: int, element: ir.Type) -> ir.Value:
    """A tensor of the ``count`` numbers that ``term`` stands for."""
    shaped = [v for v in leaves(term) if isinstance(v.type, ir.ShapedType)]
    operands = [_vector(value) for value in shaped]
    loop = dims(1)
    maps = [loop if ir.RankedTensorType(v.type).rank else [] for v in operands]

    def body(*arguments: ir.Value) -> ir.Value:
        return _emit(term, dict(zip(shaped, arguments, strict=False)), element)

    return generic(operands, tensor.empty([count], element), [*maps, loop], ["parallel"], body)


def _vector(value: ir.Value) -> ir.Value:
    """``value`` without its dimensions of size 1."""
    kind = ir.RankedTensorType(value.type)
    wide = [size for size in kind.shape if size != 1]
    if len(wide) == kind.rank:
        return value
    groups = [list(range(kind.rank))] if wide else []
    return tensor.collapse_shape(ir.RankedTensorType.get(wide, kind.element_type), value, groups)


def _emit(term: Term, known: Mapping[ir.Value, ir.Value], element: ir.Type) -> ir.Value:
    if term.value is not None:
        return known.get(term.value, term.value)
    if term in (ZERO, ONE):
        return arith.constant(element, float(term == ONE))
    operands = [_emit(part, known, element) for part in term.operands]
    if term.source is not None:
        copy = term.source.operation.clone()
        for number, operand in enumerate(operands):
            copy.operands[number] = operand
        return copy.results[0]
    return ir.Operation.create(
        term.operation, results=[operands[0].type], operands=operands
    ).results[0]
