"""The scalar operations of tensor programs, and which element types they take."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.runtime.dtypes import NUMPY

WEAK = ("int", "float")
"""Types of Python's numbers: they take the type of what they meet."""


@dataclass(frozen=True)
class Operation:
    """``arity`` operands of one type, whose kind is in ``kinds``: ``f`` floating point, ``i``
    signed, ``u`` unsigned, ``b`` bool. ``result`` is a type, or empty for that of the operands.
    ``symbol`` is how Python writes it: an operator, or the name of a function."""

    arity: int
    kinds: str
    symbol: str
    result: str = ""


OPERATIONS: dict[str, Operation] = {
    "add": Operation(2, "fiu", "+"),
    "sub": Operation(2, "fiu", "-"),
    "mul": Operation(2, "fiu", "*"),
    "div": Operation(2, "f", "/"),
    "floordiv": Operation(2, "iu", "//"),
    "mod": Operation(2, "iu", "%"),
    "pow": Operation(2, "f", "**"),
    "and": Operation(2, "iub", "&"),
    "or": Operation(2, "iub", "|"),
    "xor": Operation(2, "iub", "^"),
    "shl": Operation(2, "iu", "<<"),
    "shr": Operation(2, "iu", ">>"),
    "lt": Operation(2, "fiu", "<", "bool"),
    "le": Operation(2, "fiu", "<=", "bool"),
    "gt": Operation(2, "fiu", ">", "bool"),
    "ge": Operation(2, "fiu", ">=", "bool"),
    "eq": Operation(2, "fiub", "==", "bool"),
    "ne": Operation(2, "fiub", "!=", "bool"),
    "neg": Operation(1, "fi", "-"),
    "not": Operation(1, "b", "not"),
    "invert": Operation(1, "iu", "~"),
    "maximum": Operation(2, "fiu", "maximum"),
    "minimum": Operation(2, "fiu", "minimum"),
    "abs": Operation(1, "fiu", "abs"),
    **{
        name: Operation(1, "f", name)
        for name in (
            "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin",
            "cos", "tan", "sinh", "cosh", "tanh", "atan", "erf", "floor", "ceil", "trunc",
            "round",
        )
    },
}  # fmt: skip
"""By name; ``select`` and ``cast``, whose operands differ in type, are not here."""

COMBINERS = ("add", "mul", "maximum", "minimum", "and", "or")
"""Operations by which values may be accumulated: associative and commutative."""


def kind(dtype: str) -> str:
    """``f``, ``i``, ``u`` or ``b`` for an element type or a type of Python's numbers."""
    if dtype in WEAK:
        return "f" if dtype == "float" else "i"
    code = NUMPY[dtype].kind
    return "f" if code == "V" else code  # bfloat16 is a type of its own to numpy


KIND_NAMES = {"f": "floating-point", "i": "signed", "u": "unsigned", "b": "bool"}
