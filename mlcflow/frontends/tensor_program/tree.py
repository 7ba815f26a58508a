"""What a tensor program is, between Python and MLIR: loop nests that each write one element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """A size known at run time only; equal names are equal sizes."""

    name: str

    def __str__(self) -> str:
        return self.name


Size = int | Symbol


@dataclass(frozen=True)
class TensorType:
    """``shape``: sizes, outermost first; ``dtype``: a name such as ``float32`` or ``bool``."""

    shape: tuple[Size, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Loop:
    """One loop from 0 to ``extent``. ``kind``: ``spatial``, ``reduce``, or empty when the
    program does not say. ``number`` tells loops of the same name apart."""

    name: str
    extent: Size
    kind: str
    number: int


@dataclass(frozen=True)
class Affine:
    """``constant`` plus loop variables times non-zero coefficients, each variable once."""

    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    @staticmethod
    def of(terms: dict[str, int], constant: int) -> Affine:
        """Drop the terms that are zero; the others keep their order."""
        return Affine(tuple((name, c) for name, c in terms.items() if c), constant)

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for name, coefficient in other.terms:
            terms[name] = terms.get(name, 0) + coefficient
        return Affine.of(terms, self.constant + other.constant)

    def scaled(self, factor: int) -> Affine:
        """Every coefficient and the constant times ``factor``."""
        return Affine.of({n: c * factor for n, c in self.terms}, self.constant * factor)

    @property
    def descending(self) -> list[tuple[str, int]]:
        """The terms, those with the largest coefficient first."""
        return sorted(self.terms, key=lambda term: -term[1])

    @property
    def variable(self) -> str | None:
        """The name, if this is one loop variable and nothing else."""
        plain = len(self.terms) == 1 and self.terms[0][1] == 1 and not self.constant
        return self.terms[0][0] if plain else None

    def __str__(self) -> str:
        parts = [name if c == 1 else f"{name} * {c}" for name, c in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts).replace("+ -", "- ")


@dataclass(frozen=True, eq=False)
class Constant:
    """A number. ``dtype`` as in :class:`Apply`."""

    value: float
    dtype: str


@dataclass(frozen=True, eq=False)
class IndexValue:
    """A loop index, used as a number."""

    index: Affine
    dtype: str = "int"


@dataclass(frozen=True, eq=False)
class SizeValue:
    """A run-time size, used as a number."""

    symbol: Symbol
    dtype: str = "int"


@dataclass(frozen=True, eq=False)
class Load:
    """The element of a tensor at ``index``."""

    tensor: str
    index: tuple[Affine, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Apply:
    """An operation on scalars; the names are the keys of ``intrinsics.OPERATIONS``.

    ``dtype`` is a name of ``runtime.dtypes.NUMPY``, or ``int`` or ``float``: a value of Python,
    which takes the type of what it meets, and is computed with 64 bits until then.
    """

    operation: str
    operands: tuple[Expression, ...]
    dtype: str


Expression = Constant | IndexValue | SizeValue | Load | Apply
"""Nodes are compared by identity: a value that the program names is one node with many users."""


@dataclass(frozen=True)
class Statement:
    """``target[index] = value`` in loops, outermost first; one ``linalg.generic``.

    ``combine``: empty to overwrite; else ``add``, ``mul``, ``maximum``, ``minimum``, ``and`` or
    ``or``, by which ``value`` is accumulated into what the element holds. ``line`` and
    ``column`` say where the statement stands in the file.
    """

    loops: tuple[Loop, ...]
    target: str
    index: tuple[Affine, ...]
    combine: str
    value: Expression
    line: int
    column: int

    @property
    def extents(self) -> dict[str, Size]:
        """The extent of each loop variable."""
        return {loop.name: loop.extent for loop in self.loops}

    @property
    def spatial(self) -> list[str]:
        """The loop variables that choose the element, in the order of its dimensions; of those
        that one dimension merges, the one that makes the largest steps first."""
        return [name for affine in self.index for name, _ in affine.descending]

    @property
    def reduced(self) -> list[str]:
        """The loop variables over which values are accumulated: in the order of the dimensions of
        the last tensor read that has one for each, as a filter has; else in that of the loops."""
        names = [loop.name for loop in self.loops if loop.name not in self.spatial]
        for load in reversed(loads(self.value)):
            inside = [a.variable for a in load.index if a.variable in names]
            if sorted(filter(None, inside)) == sorted(names):
                return [name for name in inside if name is not None]
        return names


@dataclass(frozen=True, eq=False)
class Program:
    """A function: ``arguments`` by name in order, ``buffers`` that it makes, its statements in
    order, and the buffers that it returns. ``file`` is where its source lies."""

    name: str
    arguments: dict[str, TensorType]
    buffers: dict[str, TensorType]
    statements: tuple[Statement, ...]
    results: tuple[str, ...]
    file: str

    def type_of(self, tensor: str) -> TensorType:
        """The type of an argument or buffer."""
        return self.arguments[tensor] if tensor in self.arguments else self.buffers[tensor]


def nodes(root: Expression) -> Iterator[Expression]:
    """Every node of an expression, operands first, each once."""
    seen: set[int] = set()

    def visit(node: Expression) -> Iterator[Expression]:
        if id(node) not in seen:
            seen.add(id(node))
            for operand in node.operands if isinstance(node, Apply) else ():
                yield from visit(operand)
            yield node

    return visit(root)


def loads(root: Expression) -> list[Load]:
    """The elements that an expression reads."""
    return [node for node in nodes(root) if isinstance(node, Load)]


def variables(root: Expression) -> set[str]:
    """The loop variables that an expression depends on."""
    found: set[str] = set()
    for node in nodes(root):
        indices: Iterable[Affine] = ()
        if isinstance(node, Load):
            indices = node.index
        elif isinstance(node, IndexValue):
            indices = (node.index,)
        found.update(name for affine in indices for name, _ in affine.terms)
    return found
