"""``schedule.dot_tiles``: contractions as tiles the size of a dot product instruction."""

from mlcflow.dialects.schedule.dialect import Erase, ScheduleDialect, attach
from mlcflow.graph.dot_form import DotForm, dot_form, operands_of
from mlcflow.mlir import arith, ext, ir, tensor, transform, vector


class DotTiles(ScheduleDialect.Operation, name="dot_tiles"):
    """Compute each contraction of ``target`` by ``vector.contract`` of one row and one register.

    These have the shapes that ``apply_patterns.x86.vector_contract_to_packed_type_dot_product``
    takes: 1x1x2 and 1x16x2 into 1x16 for bf16, 1x1x4 and 1x16x4 for i8. Rows of B that are not
    packed are interleaved in registers. The accumulators are one vector, to be hoisted.
    """

    target: ext.Operand[transform.AnyOpType]


def load() -> None:
    """Attach the interfaces, in the current context."""
    attach(DotTiles, _apply)


def _apply(op: ir.OpView, payload: list[ir.OpView], erase: Erase) -> None:
    for target in payload:
        form = dot_form(target)
        if isinstance(form, str):
            raise ValueError(form)
        with ir.InsertionPoint(target), target.location:
            result = _tiles(target, form)
        target.results[0].replace_all_uses_with(result)
        erase(target.operation)


def _tiles(op: ir.OpView, form: DotForm) -> ir.Value:
    a, b, c = operands_of(op)
    if form.is_packed:
        b = _flat(b)
    shape = [form.rows, form.columns] if form.has_rows else [form.columns]
    before = _shaped(_read(c, shape, [0] * len(shape)), [form.rows, form.columns])
    pieces = {
        (row, column): _cut(before, row, column, form.lanes)
        for row in range(form.rows)
        for column in range(0, form.columns, form.lanes)
    }
    for step in range(form.steps):
        columns = {
            column: _columns(b, step, column, form) for column in range(0, form.columns, form.lanes)
        }
        for row in range(form.rows):
            left = _row(a, row, step, form)
            for column, right in columns.items():
                pieces[row, column] = _contract(left, right, pieces[row, column])
    after = before
    for (row, column), piece in pieces.items():
        after = vector.insert_strided_slice(piece, after, [row, column], [1, 1])
    return _write(_shaped(after, shape), c)


def _flat(b: ir.Value) -> ir.Value:
    """Packed columns and what is in them as one dimension."""
    kind = ir.RankedTensorType(b.type)
    *outer, columns, width = kind.shape
    groups = [*([dim] for dim in range(len(outer))), [len(outer), len(outer) + 1]]
    flat = ir.RankedTensorType.get([*outer, columns * width], kind.element_type)
    return tensor.collapse_shape(flat, b, groups)


def _row(a: ir.Value, row: int, step: int, form: DotForm) -> ir.Value:
    """The elements of one row of A that make one product, as 1 x 1 x width."""
    along_k = [step, 0] if form.is_packed else [step * form.width]
    at = [row, *along_k] if form.has_rows else along_k
    return _shaped(_read(a, [form.width], at), [1, 1, form.width])


def _columns(b: ir.Value, step: int, column: int, form: DotForm) -> ir.Value:
    """What a register of columns of B adds in one step, as 1 x lanes x width."""
    if form.is_packed:
        values = _read(b, [form.lanes * form.width], [step, column * form.width])
    else:
        first = step * form.width
        rows = [_read(b, [form.lanes], [first + row, column]) for row in range(form.width)]
        while len(rows) > 1:  # 0 with 2, 1 with 3; then these
            half = len(rows) // 2
            rows = [vector.interleave(rows[i], rows[i + half]) for i in range(half)]
        values = rows[0]
    return _shaped(values, [1, form.lanes, form.width])


def _cut(value: ir.Value, row: int, column: int, lanes: int) -> ir.Value:
    kind = ir.VectorType.get([1, lanes], ir.VectorType(value.type).element_type)
    return vector.extract_strided_slice(kind, value, [row, column], [1, lanes], [1, 1])


def _contract(left: ir.Value, right: ir.Value, accumulator: ir.Value) -> ir.Value:
    m, n, k, inner = (ir.AffineExpr.get_dim(dim) for dim in range(4))
    maps = ([m, k, inner], [k, n, inner], [m, n])
    kinds = ["parallel", "parallel", "reduction", "reduction"]
    return vector.contract(
        accumulator.type,
        left,
        right,
        accumulator,
        ir.ArrayAttr.get([ir.AffineMapAttr.get(ir.AffineMap.get(4, 0, m)) for m in maps]),
        ir.ArrayAttr.get([ir.Attribute.parse(f"#vector.iterator_type<{k}>") for k in kinds]),
    )


def _shaped(value: ir.Value, shape: list[int]) -> ir.Value:
    kind = ir.VectorType(value.type)
    if list(kind.shape) == shape:
        return value
    return vector.shape_cast(ir.VectorType.get(shape, kind.element_type), value)


def _read(source: ir.Value, shape: list[int], at: list[int]) -> ir.Value:
    """A vector of the last dimensions of a tensor, from ``at``; of others it takes the first."""
    kind = ir.RankedTensorType(source.type)
    element = kind.element_type
    is_float = isinstance(element, ir.FloatType)
    zero = ir.FloatAttr.get(element, 0.0) if is_float else ir.IntegerAttr.get(element, 0)
    return vector.transfer_read(
        ir.VectorType.get(shape, element),
        source,
        [_index(position) for position in [*[0] * (kind.rank - len(at)), *at]],
        ir.AffineMap.get_minor_identity(kind.rank, len(shape)),
        arith.constant(element, zero),
        [True] * len(shape),
    )


def _write(value: ir.Value, place: ir.Value) -> ir.Value:
    rank, size = ir.RankedTensorType(place.type).rank, len(ir.VectorType(value.type).shape)
    last = ir.AffineMap.get_minor_identity(rank, size)
    start = [_index(0)] * rank
    return vector.transfer_write(place.type, value, place, start, last, [True] * size)


def _index(number: int) -> ir.Value:
    return arith.constant(ir.IndexType.get(), number)
