"""From a program to a module: one ``linalg.generic`` a statement, on tensors.

The loops of a generic are those that choose the element, in the order of its dimensions, then
those that are reduced, in the order of the filter or matrix that they run through: the order in
the program does not matter, a schedule changes it. Contractions and convolutions that upstream
has a name for get it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlcflow import mlir
from mlcflow.frontends.tensor_program import scalars, slices
from mlcflow.frontends.tensor_program.specialize import specialize
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Constant,
    Load,
    Program,
    Size,
    Statement,
    Symbol,
    TensorType,
    loads,
)
from mlcflow.mlir import func, ir, linalg, tensor
from mlcflow.runtime.dtypes import NUMPY


@dataclass
class State:
    """``values``: what each tensor holds so far; ``sizes``: run-time sizes, of type index."""

    program: Program
    values: dict[str, ir.Value]
    sizes: dict[str, ir.Value] = field(default_factory=dict)


def emit_module(program: Program, ctx: ir.Context | None = None) -> ir.Module:
    """The module of a checked program: ``@main``, whose arguments and results keep their names."""
    with ctx or mlir.context(), ir.Location.file(program.file, 0, 0):
        module = ir.Module.create()
        types = (
            [tensor_type(kind) for kind in program.arguments.values()],
            [tensor_type(program.buffers[name]) for name in program.results],
        )
        with ir.InsertionPoint(module.body):
            function = func.FuncOp("main", types)
        function.attributes["arg_attrs"] = ir.ArrayAttr.get(
            [_attributes("input", name, kind) for name, kind in program.arguments.items()]
        )
        function.attributes["res_attrs"] = ir.ArrayAttr.get(
            [_attributes("output", name, program.buffers[name]) for name in program.results]
        )
        with ir.InsertionPoint(function.add_entry_block()):
            _emit_body(program, function)
        module.operation.verify()
        specialize(module)
        return module


def tensor_type(kind: TensorType) -> ir.Type:
    """The ranked tensor type; integers are signless."""
    dynamic = ir.ShapedType.get_dynamic_size()
    shape = [dynamic if isinstance(size, Symbol) else size for size in kind.shape]
    return ir.RankedTensorType.get(shape, scalars.scalar_type(kind.dtype))


def _attributes(role: str, name: str, kind: TensorType) -> ir.DictAttr:
    attributes: dict[str, ir.Attribute] = {f"mlcflow.{role}": ir.StringAttr.get(name)}
    if NUMPY[kind.dtype].kind == "u":
        attributes["mlcflow.dtype"] = ir.StringAttr.get(kind.dtype)
    if any(isinstance(size, Symbol) for size in kind.shape):
        names = [ir.StringAttr.get(str(size)) for size in kind.shape]
        attributes["mlcflow.dims"] = ir.ArrayAttr.get(names)
    return ir.DictAttr.get(attributes)


def _emit_body(program: Program, function: func.FuncOp) -> None:
    state = State(program, dict(zip(program.arguments, function.arguments, strict=True)))
    for name, kind in program.arguments.items():
        for number, size in enumerate(kind.shape):
            if isinstance(size, Symbol) and size.name not in state.sizes:
                state.sizes[size.name] = slices.size_of(state.values[name], number)
    for statement in program.statements:
        with ir.Location.file(program.file, statement.line, statement.column + 1):
            state.values[statement.target] = _emit_statement(state, statement)
    func.ReturnOp([state.values[name] for name in program.results])


def _emit_statement(state: State, statement: Statement) -> ir.Value:
    """What the target holds after the statement."""
    kind = state.program.type_of(statement.target)
    extents = statement.extents
    window = slices.window(statement.index, extents, kind.shape)
    whole = window.is_whole
    old = state.values.get(statement.target)
    groups = [len(affine.terms) for affine in window.index]  # loops that a dimension merges
    shape = tuple(extents[name] for name in statement.spatial)
    if statement.reduced:
        assert old is not None  # checked: it has an initial value
        start = old if whole else slices.extract(old, window, state.sizes)
        tile = _generic(state, statement, slices.split(start, groups, shape))
    elif not whole and _is_copy(state, statement):
        dimensions = {name: number for number, name in enumerate(statement.spatial)}
        tile, _ = _source(state, loads(statement.value)[0], statement, dimensions)
    else:
        tile = _pointwise(state, statement, _empty(state, shape, kind.dtype))
    tile = slices.merge(tile, groups)
    if whole:
        return tile
    base = old if old is not None else _empty(state, kind.shape, kind.dtype)
    return slices.insert(tile, base, window, state.sizes)


def _is_copy(state: State, statement: Statement) -> bool:
    """Whether the statement copies elements in their order, as padding and joining do."""
    value = statement.value
    if not isinstance(value, Load) or statement.combine:
        return False
    shape = state.program.type_of(value.tensor).shape
    read = slices.window(value.index, statement.extents, shape)
    return [affine.variable for affine in read.index] == list(statement.spatial)


def _empty(state: State, shape: tuple[Size, ...], dtype: str) -> ir.Value:
    sizes = [state.sizes[s.name] if isinstance(s, Symbol) else s for s in shape]
    return tensor.empty(sizes, scalars.scalar_type(dtype))


def _pointwise(state: State, statement: Statement, start: ir.Value) -> ir.Value:
    """A statement without reduction: a fill, or a generic that starts from an empty tensor."""
    if isinstance(statement.value, Constant) and not statement.combine:
        constant = scalars.number(statement.value.value, statement.value.dtype)
        return linalg.fill(constant, outs=[start])
    return _generic(state, statement, start)


def _generic(state: State, statement: Statement, start: ir.Value) -> ir.Value:
    """The statement as a ``linalg.generic`` whose result replaces ``start``."""
    loops = [*statement.spatial, *statement.reduced]
    dimensions = {name: number for number, name in enumerate(loops)}
    reads = {(load.tensor, load.index): load for load in loads(statement.value)}
    dtype = state.program.type_of(statement.target).dtype
    if statement.combine and not statement.reduced:
        # Not through the destination: what is read there does not fuse with its producer.
        reads[statement.target, statement.index] = Load(statement.target, statement.index, dtype)
    sources = [_source(state, load, statement, dimensions) for load in reads.values()]
    maps = [affine_map for _, affine_map in sources]
    operands = [value for value, _ in sources]
    free = _undetermined(statement.reduced, dimensions, maps)
    if free:  # nothing else says how long these loops are: a window, as pooling has it
        operands.append(_empty(state, tuple(statement.extents[n] for n in free), dtype))
        maps.append(_map(dimensions, [ir.AffineExpr.get_dim(dimensions[n]) for n in free]))
    maps.append(_map(dimensions, [ir.AffineExpr.get_dim(dimensions[n]) for n in statement.spatial]))
    kinds = ["parallel"] * len(statement.spatial) + ["reduction"] * len(statement.reduced)
    op = linalg.GenericOp(
        [start.type],
        operands,
        [start],
        ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps]),
        ir.ArrayAttr.get([_iterator(name) for name in kinds]),
    )
    scalars_in = [ir.ShapedType(value.type).element_type for value in [*operands, start]]
    body = op.regions[0].blocks.append(*scalars_in)
    with ir.InsertionPoint(body):
        elements = dict(zip(reads, body.arguments, strict=False))
        value = scalars.emit(statement.value, elements, dimensions, state.sizes)
        if statement.combine:
            last = body.arguments[len(body.arguments) - 1]
            old = last if statement.reduced else elements[statement.target, statement.index]
            value = scalars.combine(statement.combine, dtype, old, value)
        linalg.YieldOp([value])
    return op.results[0]


def _iterator(name: str) -> ir.Attribute:
    return ir.Attribute.parse(f"#linalg.iterator_type<{name}>")


def _source(
    state: State, load: Load, statement: Statement, dimensions: dict[str, int]
) -> tuple[ir.Value, ir.AffineMap]:
    """What a generic reads for ``load``: the tensor or a slice of it, and the map into that."""
    shape = state.program.type_of(load.tensor).shape
    value = state.values[load.tensor]
    window = slices.window(load.index, statement.extents, shape)
    if not window.is_whole:
        value = slices.extract(value, window, state.sizes)
    return value, _map(dimensions, [_affine(a, dimensions) for a in window.index])


def _map(dimensions: dict[str, int], results: list[ir.AffineExpr]) -> ir.AffineMap:
    return ir.AffineMap.get(len(dimensions), 0, results)


def _affine(index: Affine, dimensions: dict[str, int]) -> ir.AffineExpr:
    total = None
    for name, coefficient in index.terms:
        term = ir.AffineExpr.get_dim(dimensions[name])
        if coefficient != 1:
            term = term * coefficient
        total = term if total is None else total + term
    assert total is not None
    return total + index.constant if index.constant else total


def _undetermined(
    reduced: list[str], dimensions: dict[str, int], maps: list[ir.AffineMap]
) -> list[str]:
    """The reduction loops whose extent no operand gives."""
    given = {
        result.position
        for affine_map in maps
        for result in affine_map.results
        if isinstance(result, ir.AffineDimExpr)
    }
    return [name for name in reduced if dimensions[name] not in given]
