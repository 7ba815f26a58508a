"""The Python function that a module becomes, while it is written."""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import dataclass, field

from mlcflow.failure import source_lines
from mlcflow.frontends.tensor_program.print_scalars import word
from mlcflow.frontends.tensor_program.print_values import (
    Empty,
    Index,
    PySize,
    Splat,
    View,
    plain,
)
from mlcflow.mlir import func, ir
from mlcflow.runtime import dtypes

_LOOPS = "ijklmnpqrsuvwxyz"


@dataclass
class Printer:
    """The function so far. ``values``: what each tensor is; ``sizes``: what each index is."""

    values: dict[ir.Value, Empty | Splat | View] = field(default_factory=dict)
    sizes: dict[ir.Value, PySize] = field(default_factory=dict)
    statements: list[ast.stmt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=lambda: {"T", "mlcflow"})
    outputs: dict[ir.Value, str] = field(default_factory=dict)

    def problem(self, op: ir.OpView, what: str) -> None:
        """Note what cannot be said, with the source line of ``op``."""
        where = source_lines([str(op.operation.location)])
        self.problems.append(f"{what} ({where})" if where else what)

    def fresh_name(self, wanted: str) -> str:
        """A valid name that is not taken: ``wanted``, or that with a number."""
        base = re.sub(r"\W", "_", wanted)
        base = base if base.isidentifier() else f"v{base}"
        tries = itertools.chain([base], (f"{base}_{n}" for n in itertools.count(1)))
        name = next(name for name in tries if name not in self.names)
        self.names.add(name)
        return name

    def fresh_local(self, letter: str) -> str:
        """A name for a scalar: a letter with a number."""
        return self.fresh_name(f"{letter}{sum(n[0] == letter for n in self.names)}")

    def loops(self, count: int) -> list[str]:
        """Names of loops; the same in every loop nest."""
        letters = [x for x in _LOOPS if x not in self.names]
        return [*letters, *(f"i{n}" for n in range(count))][:count]

    def dtype(self, kind: ir.Type) -> str:
        """The name of the element type of a tensor type."""
        text = str(ir.RankedTensorType(kind).element_type)
        try:
            return dtypes.of_mlir(text)
        except KeyError:
            self.problems.append(f"tensors of {text}")
            return "float32"

    def argument_shape(self, name: str, kind: ir.Type, dims: list[str]) -> tuple[PySize, ...]:
        """The shape of an argument; open sizes are bound to a name at the first that has them."""
        tensor = ir.RankedTensorType(kind)
        shape: list[PySize] = []
        for number in range(tensor.rank):
            if not tensor.is_dynamic_dim(number):
                shape.append(tensor.shape[number])
                continue
            size = dims[number] if dims and dims[number].isidentifier() else f"{name}_{number}"
            shape.append(size)
            if size not in self.names:
                self.names.add(size)
                sizes = ast.Attribute(ast.Name(name), "shape")
                bound = ast.Subscript(sizes, ast.Constant(number))
                self.statements.append(ast.Assign([ast.Name(size)], bound, lineno=0))
        return tuple(shape)

    def read_outputs(self, function: func.FuncOp) -> None:
        """Remember how results are called."""
        attributes = function.attributes
        given = attributes.get("res_attrs", [])
        last = function.entry_block.operations[len(function.entry_block.operations) - 1]
        for value, entries in zip(last.operands, given, strict=False):
            if "mlcflow.output" in ir.DictAttr(entries):
                name = ir.StringAttr(ir.DictAttr(entries)["mlcflow.output"]).value
                self.outputs[value] = name if name.isidentifier() else f"result{name}"

    def buffer(self, value: ir.Value, shape: tuple[PySize, ...]) -> View:
        """A new buffer that will hold ``value``."""
        name = self.fresh_name(self.outputs.get(_last(value), "buffer"))
        sizes = ast.Tuple([size_expression(size) for size in shape])
        make = ast.Call(word("empty"), [sizes, ast.Constant(self.dtype(value.type))], [])
        self.statements.append(ast.Assign([ast.Name(name)], make, lineno=0))
        return View(shape, name, plain, owned=True)

    def nest(
        self, loops: list[str], extents: list[PySize], reduced: list[bool], body: list[ast.stmt]
    ) -> None:
        """Add ``body`` within loops."""
        if loops:
            axes = [
                ast.Call(word("reduce"), [size_expression(e)], []) if r else size_expression(e)
                for e, r in zip(extents, reduced, strict=True)
            ]
            names: list[ast.expr] = [ast.Name(name) for name in loops]
            if len(loops) > 1:
                over: ast.expr = ast.Call(word("grid"), axes, [])
                target: ast.expr = ast.Tuple(names)
            else:
                over = axes[0] if reduced[0] else ast.Call(word("spatial"), axes, [])
                target = names[0]
            body = [ast.For(target, over, body, [], lineno=0)]
        self.statements += body

    def copy(self, source: View | Splat, target: View, shape: tuple[PySize, ...]) -> None:
        """Write ``source`` into ``target``, element by element; ``shape`` is theirs."""
        loops = self.loops(len(shape))
        # A loop of one iteration would have to be in the index of what is written.
        ones = [size == 1 for size in shape]
        index: Index = [
            ast.Constant(0) if one else ast.Name(name)
            for one, name in zip(ones, loops, strict=True)
        ]
        value = source.value if isinstance(source, Splat) else source.element(index)
        body = ast.Assign([target.element(index)], value, lineno=0)
        kept = [(n, s) for one, n, s in zip(ones, loops, shape, strict=True) if not one]
        self.nest([n for n, _ in kept], [s for _, s in kept], [False] * len(kept), [body])

    def destination(self, op: ir.OpView, old: ir.Value, result: ir.Value) -> View:
        """A buffer that holds ``old`` and may become ``result``: that of ``old`` if ``op`` is
        its only user, else a new one."""
        state = self.values[old]
        if isinstance(state, View) and state.owned and len(list(old.uses)) == 1:
            return state
        buffer = self.buffer(result, state.shape)
        if not isinstance(state, Empty):
            self.copy(state, buffer, state.shape)
        return buffer


def _last(value: ir.Value) -> ir.Value:
    """What ``value`` becomes when its only user writes into it, and so on."""
    while True:
        uses = list(value.uses)
        user = uses[0].owner if len(uses) == 1 else None
        if user is None or user.operation.name not in ("linalg.generic", "tensor.insert_slice"):
            return value
        results = list(user.operation.results)
        first = len(user.operation.operands) - len(results)
        if user.operation.name == "tensor.insert_slice":
            first = 1
        if not first <= uses[0].operand_number < first + len(results):
            return value
        value = results[uses[0].operand_number - first]


def size_expression(size: PySize) -> ast.expr:
    """A size as Python writes it."""
    return ast.Name(size) if isinstance(size, str) else ast.Constant(size)
