"""The body of a ``linalg.generic`` as Python expressions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field

from mlcflow.mlir import ir
from mlcflow.runtime import dtypes

_OPERATORS: dict[str, ast.operator] = {
    "arith.addf": ast.Add(), "arith.addi": ast.Add(),
    "arith.subf": ast.Sub(), "arith.subi": ast.Sub(),
    "arith.mulf": ast.Mult(), "arith.muli": ast.Mult(),
    "arith.divf": ast.Div(), "arith.floordivsi": ast.FloorDiv(), "math.powf": ast.Pow(),
    "arith.andi": ast.BitAnd(), "arith.ori": ast.BitOr(), "arith.xori": ast.BitXor(),
    "arith.shli": ast.LShift(), "arith.shrsi": ast.RShift(),
}  # fmt: skip
_FUNCTIONS = {
    "arith.maximumf": "maximum", "arith.maxsi": "maximum",
    "arith.minimumf": "minimum", "arith.minsi": "minimum",
    "math.absf": "abs", "math.absi": "abs", "math.roundeven": "round",
    **{
        f"math.{name}": name
        for name in (
            "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin",
            "cos", "tan", "sinh", "cosh", "tanh", "atan", "erf", "floor", "ceil", "trunc",
        )
    },
    "arith.select": "select",
}  # fmt: skip
_CASTS = (
    "arith.extf", "arith.truncf", "arith.sitofp", "arith.uitofp", "arith.fptosi", "arith.extsi",
    "arith.extui", "arith.trunci", "arith.index_cast",
)  # fmt: skip
_INTEGER_COMPARISONS = (ast.Eq(), ast.NotEq(), ast.Lt(), ast.LtE(), ast.Gt(), ast.GtE())
_ORDERED = {1: ast.Eq(), 2: ast.Gt(), 3: ast.GtE(), 4: ast.Lt(), 5: ast.LtE(), 13: ast.NotEq()}
_UNORDERED = {9: ast.LtE(), 10: ast.Lt(), 11: ast.GtE(), 12: ast.Gt()}
"""Numbers of the predicates of ``arith.cmpf`` that Python has, and those that are the negation
of one: all comparisons with NaN are false in Python, except ``!=``."""


@dataclass
class Body:
    """``values`` by expression, ``statements`` that bind what is used more than once, and
    ``problems``: the operations that Python cannot say. ``fresh`` makes names."""

    values: dict[ir.Value, ast.expr]
    loops: list[str]
    fresh: Callable[[str], str]
    statements: list[ast.stmt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def value(self, value: ir.Value) -> ast.expr:
        """The expression for a value: known, or a constant from outside."""
        if value not in self.values:
            found = constant_of(value)
            if found is None:
                self.problems.append(
                    f"a scalar of type {value.type} from outside of the loop, or of another result"
                )
                found = ast.Constant(0)
            self.values[value] = found
        return self.values[value]

    def add(self, op: ir.OpView) -> None:
        """Translate one operation of the body."""
        if op.operation.name == "arith.constant":
            return
        found = _expression(self, op)
        result = op.operation.results[0]
        if found is None:
            self.problems.append(f"{op.operation.name} on {_types(op)}")
            found = ast.Constant(0)
        if len(list(result.uses)) > 1 and not isinstance(found, ast.Name | ast.Constant):
            name = self.fresh("t")
            self.statements.append(ast.Assign([ast.Name(name)], found, lineno=0))
            found = ast.Name(name)
        self.values[result] = found


def constant_of(value: ir.Value) -> ast.expr | None:
    """The number that an ``arith.constant`` of a scalar, or of equal elements, gives."""
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.name != "arith.constant":
        return None
    attribute = owner.attributes["value"]
    if isinstance(attribute, ir.DenseElementsAttr) and attribute.is_splat:
        attribute = attribute.get_splat_value()
    if isinstance(attribute, ir.IntegerAttr) and str(attribute.type) == "i1":
        return ast.Constant(attribute.value != 0)
    if isinstance(attribute, ir.IntegerAttr | ir.FloatAttr):
        return number(attribute.value)
    if isinstance(attribute, ir.BoolAttr):
        return ast.Constant(attribute.value)
    return None


def number(value: float) -> ast.expr:
    """A number as Python writes it; infinities and NaN by name."""
    if value != value:
        return word("nan")
    if value in (float("inf"), float("-inf")):
        return word("inf") if value > 0 else ast.UnaryOp(ast.USub(), word("inf"))
    return ast.Constant(value)


def word(name: str) -> ast.expr:
    """A name of ``mlcflow.language``."""
    return ast.Attribute(ast.Name("T"), name)


def _expression(body: Body, op: ir.OpView) -> ast.expr | None:
    """What the operation computes; ``None`` when there is no Python for it."""
    name = op.operation.name
    operands = [body.value(operand) for operand in op.operation.operands]
    if name == "linalg.index":
        return ast.Name(body.loops[ir.IntegerAttr(op.operation.attributes["dim"]).value])
    if name == "arith.xori" and isinstance(operands[1], ast.Constant) and operands[1].value is True:
        return ast.UnaryOp(ast.Not(), operands[0])
    if name in _OPERATORS:
        return ast.BinOp(operands[0], _OPERATORS[name], operands[1])
    if name in _FUNCTIONS:
        return ast.Call(word(_FUNCTIONS[name]), operands, [])
    if name in ("arith.cmpf", "arith.cmpi"):
        predicate = ir.IntegerAttr(op.operation.attributes["predicate"]).value
        return _comparison(name, predicate, *operands)
    if name == "arith.negf":
        return ast.UnaryOp(ast.USub(), operands[0])
    if name == "math.fma":
        return ast.BinOp(ast.BinOp(operands[0], ast.Mult(), operands[1]), ast.Add(), operands[2])
    if name in _CASTS:
        return _cast(op, operands[0])
    return None


def _comparison(name: str, predicate: int, left: ast.expr, right: ast.expr) -> ast.expr | None:
    def compare(operator: ast.cmpop) -> ast.expr:
        return ast.Compare(left, [operator], [right])

    if name == "arith.cmpi":
        known = predicate < len(_INTEGER_COMPARISONS)
        return compare(_INTEGER_COMPARISONS[predicate]) if known else None
    if predicate in _ORDERED:
        return compare(_ORDERED[predicate])
    if predicate in _UNORDERED:
        return ast.UnaryOp(ast.Not(), compare(_UNORDERED[predicate]))
    if predicate in (6, 8):  # ordered and different; unordered or equal
        different = ast.BinOp(compare(ast.Lt()), ast.BitOr(), compare(ast.Gt()))
        return different if predicate == 6 else ast.UnaryOp(ast.Not(), different)
    return None


def _cast(op: ir.OpView, operand: ast.expr) -> ast.expr | None:
    """A cast that means in Python what it means in MLIR: bool is unsigned there."""
    before, after = op.operation.operands[0].type, op.operation.results[0].type
    name = op.operation.name
    from_bool = str(before) == "i1"
    signed = name in ("arith.sitofp", "arith.extsi")
    if str(after) in ("i1", "index") or (signed and from_bool):
        return None
    if name in ("arith.uitofp", "arith.extui") and not from_bool:
        return None
    dtype = ast.Constant(dtypes.of_mlir(str(after)))
    return ast.Call(word("cast"), [operand, dtype], [])


def _types(op: ir.OpView) -> str:
    return ", ".join(str(operand.type) for operand in op.operation.operands) or "nothing"
