"""Winograd's filtering by blocks of tiles: three kernels as one, whose planes stay in the cache.

The planes of a whole image are 4 or 9 times as large as the image: what one kernel writes, the
next reads from memory. Of some rows of tiles they fit into the cache of a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlcflow.graph.choices import loops_that_choose
from mlcflow.graph.interface import entry_points
from mlcflow.graph.kernel import Kernel, loop_extents, read_kernel
from mlcflow.graph.linalg_ops import captured, indexing_maps, is_fill, owner
from mlcflow.graph.outline import kernels
from mlcflow.graph.panels import RESHAPES
from mlcflow.graph.window import position_of
from mlcflow.mlir import arith, func, ir, linalg, scf, tensor, walk
from mlcflow.schedule.labels import PARALLEL
from mlcflow.target import Target

ROWS = 12
"""Tiles of a block: the filters are read again for each, and a product needs so many rows."""
BLOCKS = 6
"""Blocks a core at least, so that no core is left with much more than the others."""

Places = Mapping[int, tuple[ir.Value, int]]
"""For a loop the first of its iterations, and how many there are."""


@dataclass(frozen=True)
class _Chain:
    """The calls that read tiles, multiply planes and write pixels, and their kernels."""

    calls: tuple[func.CallOp, func.CallOp, func.CallOp]
    read: Kernel
    product: Kernel
    write: Kernel
    planes: int  # the number of the argument of ``write`` that has the planes

    @property
    def row(self) -> int:
        """The loop of ``write`` over rows of tiles; before it there may be one over images."""
        return len(self.write.loops) - 5

    @property
    def name(self) -> str:
        """One for each three kernels."""
        return "_".join(["winograd", *(kernel.name for kernel in (self.read, self.write))])


def block_winograd(target: Target) -> Callable[[ir.Module], None]:
    """The step that joins the kernels of a convolution where blocks of its planes fit the cache.

    Runs when kernels have been cut and equal ones merged, before they are scheduled. What was
    three kernels is one, with loops over images and blocks of rows of tiles.
    """

    def join_winograd(module: ir.Module) -> None:
        main = next((f for f in entry_points(module) if f.name.value == "main"), None)
        found = {f.name.value: kernel for f in kernels(module) if (kernel := read_kernel(f))}
        made: dict[tuple[str, ...], func.FuncOp] = {}
        for call in [op for op in walk(main) if isinstance(op, func.CallOp)] if main else []:
            chain = _chain(call, found)
            rows = _rows(chain, target) if chain else 0
            if chain and rows:
                key = tuple(kernel.name for kernel in (chain.read, chain.product, chain.write))
                if key not in made:
                    made[key] = _join(chain, rows, ir.SymbolTable(module.operation))
                _call(chain, made[key])

    return join_winograd


def _chain(call: func.CallOp, found: Mapping[str, Kernel]) -> _Chain | None:
    """The chain that ends in ``call``."""
    write = found.get(call.callee.value)
    if write is None or len(write.blocks) != 1 or not loops_that_choose(write.root, write.loops):
        return None
    for number, operand in enumerate(call.operands):
        product_call = _made_by(operand)
        product = found.get(product_call.callee.value) if product_call else None
        if product_call is None or product is None or not _is_product(product):
            continue
        read_call = _made_by(product_call.operands[0])
        read = found.get(read_call.callee.value) if read_call else None
        if read_call is None or read is None or len(read.blocks) != 1:
            continue
        if len(read.function.arguments) != 2:
            continue  # the image comes in pieces, as it does where it has no border
        chain = _Chain((read_call, product_call, call), read, product, write, number)
        depth, row = len(read.loops), chain.row
        is_tiled = depth == len(write.loops) and depth in (5, 6)
        if (
            is_tiled
            and loops_that_choose(read.root, read.loops) == [0, 1]
            and loops_that_choose(write.root, write.loops) == [row + 1, row + 3]
        ):
            return chain
    return None


def _is_product(kernel: Kernel) -> bool:
    is_alone = [is_fill(op) or op == kernel.root for op in kernel.blocks]
    return kernel.root.operation.name == "linalg.batch_matmul" and all(is_alone)


def _made_by(value: ir.Value) -> func.CallOp | None:
    """The call that alone makes ``value``, perhaps in another shape, for one reader."""
    while len(list(value.uses)) == 1:
        op = owner(value)
        if not isinstance(op, RESHAPES):
            return op if isinstance(op, func.CallOp) and len(op.results) == 1 else None
        value = op.src
    return None


def _rows(chain: _Chain, target: Target) -> int:
    """Rows of tiles of a block; 0 where the kernels are better apart.

    Milliseconds of four convolutions on one core, apart and joined:

    ================= ============= =============
    channels, size    apart         joined
    ================= ============= =============
    64, 8 of 56x56    39.4          28.4
    64, 224x224       86.4          64.1
    128, 112x112      59.8          48.5
    128, 8 of 28x28   25.0          23.2
    256, 56x56        47.2          50.2
    256, 8 of 14x14   32.1          33.8
    ================= ============= =============

    The filters of the last two, 9 and 4 MiB, come from afar for each block.
    """
    *images, rows, _, columns, _, f = chain.write.loops
    planes, c = math.prod(chain.read.loops[:2]), chain.read.loops[-1]
    if 4 * planes * c * f > 3 * target.caches[1]:
        return 0
    best = 0
    for size in range(1, rows + 1):
        bytes_ = 4 * planes * size * columns * (c + f)
        blocks = math.prod(images) * rows // size
        is_even = blocks % target.cores == 0 or blocks >= BLOCKS * target.cores
        fits = bytes_ <= 2 * target.caches[1] and is_even and blocks > 1
        is_larger = size * columns >= ROWS and (not best or bytes_ <= target.caches[1] // 2)
        if rows % size == 0 and fits and is_larger:
            best = size
    return best


def _join(chain: _Chain, rows: int, symbols: ir.SymbolTable) -> func.FuncOp:
    """A kernel that does what the three of ``chain`` do, ``rows`` rows of tiles at a time."""
    arguments = _arguments(chain)
    types, anchor = [value.type for value in arguments], chain.write.function
    with ir.InsertionPoint(anchor), anchor.location:
        function = func.FuncOp(chain.name, (types, types[-1:]), visibility="private")
    function.attributes["mlcflow.kernel"] = ir.UnitAttr.get()
    symbols.insert(function)
    image, filters, *others, start = function.add_entry_block().arguments
    with ir.InsertionPoint(function.entry_block), anchor.location:

        def block(places: list[tuple[ir.Value, int]], result: ir.Value) -> ir.Value:
            made = _planes(chain, image, filters, places)
            return _pixels(chain, made, [*others, result], dict(enumerate(places)))

        func.ReturnOp([_nest(chain.write.loops[: chain.row + 1], rows, start, block)])
    return function


def _arguments(chain: _Chain) -> list[ir.Value]:
    """The image, the filters, what else is read for the pixels, and where these go."""
    read, product, write = chain.calls
    others = [value for number, value in enumerate(write.operands) if number != chain.planes]
    return [read.operands[0], product.operands[1], *others]


def _call(chain: _Chain, function: func.FuncOp) -> None:
    """Call ``function`` in place of the three."""
    last = chain.calls[2]
    with ir.InsertionPoint(last), last.location:
        new = func.CallOp([last.results[0].type], function.name.value, _arguments(chain))
    last.results[0].replace_all_uses_with(new.results[0])
    value = last.operands[chain.planes]
    last.operation.erase()
    while (op := owner(value)) is not None and not list(value.uses):
        value = op.operands[0]
        op.operation.erase()


def _nest(
    extents: Sequence[int],
    rows: int,
    start: ir.Value,
    block: Callable[[list[tuple[ir.Value, int]], ir.Value], ir.Value],
    places: Sequence[tuple[ir.Value, int]] = (),
) -> ir.Value:
    """Loops over images, one by one, and then ``rows`` rows at a time, that hand ``start`` on."""
    if len(places) == len(extents):
        return block(list(places), start)
    number = len(places)
    step = rows if number == len(extents) - 1 else 1
    index = ir.IndexType.get()
    bounds = [arith.constant(index, value) for value in (0, extents[number], step)]
    loop = scf.ForOp(*bounds, [start])
    loop.attributes[PARALLEL] = ir.StringAttr.get("threads")
    inside = [*places, (loop.induction_variable, step)]
    with ir.InsertionPoint(loop.body):
        scf.yield_([_nest(extents, rows, loop.inner_iter_args[0], block, inside)])
    return loop.results[0]


def _planes(
    chain: _Chain, image: ir.Value, filters: ir.Value, places: list[tuple[ir.Value, int]]
) -> ir.Value:
    """The planes of a block as the last kernel reads them."""
    shape, where = list(chain.read.loops), dict(enumerate(places, 2))
    for loop, (_, size) in where.items():
        shape[loop] = size
    kind = ir.F32Type.get()
    space = tensor.empty(shape, kind)
    read = _part(chain.read.root, {chain.read.function.arguments[0]: image}, space, where)
    last = len(shape) - 1
    groups = [[0, 1], list(range(2, last)), [last]]
    flat = [math.prod(shape[dim] for dim in group) for group in groups]
    read = tensor.collapse_shape(ir.RankedTensorType.get(flat, kind), read, groups)
    flat[2] = shape[last] = chain.write.loops[-1]
    zero = arith.constant(kind, 0.0)
    start = linalg.fill(zero, outs=[tensor.empty(flat, kind)])
    product = linalg.batch_matmul(read, filters, outs=[start])
    return tensor.expand_shape(ir.RankedTensorType.get(shape, kind), product, groups, [], shape)


def _pixels(chain: _Chain, planes: ir.Value, others: list[ir.Value], where: Places) -> ir.Value:
    """The last of ``others`` with the pixels of a block, made of its ``planes``."""
    arguments = list(chain.write.function.arguments)
    whole = dict(
        zip([a for n, a in enumerate(arguments) if n != chain.planes], others, strict=True)
    )
    result = others[-1]
    place = _slice(result, indexing_maps(chain.write.root)[-1], chain.write.loops, where)
    pixels = _part(chain.write.root, whole, place, where, {arguments[chain.planes]: planes})
    at = place.owner.opview
    return tensor.insert_slice(
        pixels, result, list(at.offsets), [], [], at.static_offsets, at.static_sizes,
        at.static_strides,
    )  # fmt: skip


def _part(
    op: ir.OpView,
    whole: Mapping[ir.Value, ir.Value],
    place: ir.Value,
    where: Places,
    parts: Mapping[ir.Value, ir.Value] | None = None,
) -> ir.Value:
    """What ``op`` computes in the iterations ``where``, written to ``place``.

    ``whole``: what stands for the arguments that it reads; ``parts``: the same for what is of
    this block already.
    """
    known = dict(parts or {})
    for value, affine_map in zip(op.operands, indexing_maps(op)[:-1], strict=False):
        if value not in known:
            known[value] = _slice(whole[value], affine_map, loop_extents(op), where)
    known |= {value: value.owner.clone().results[0] for value in captured(op)}
    new = op.operation.clone()
    for each in [new, *(inner.operation for inner in walk(new))]:
        for number, operand in enumerate(each.operands):
            if operand in known:
                each.operands[number] = known[operand]
    new.operands[len(new.operands) - 1] = place
    new.results[0].set_type(place.type)
    return new.results[0]


def _slice(
    value: ir.Value, affine_map: ir.AffineMap, extents: Sequence[int], where: Places
) -> ir.Value:
    """The part of ``value`` that the iterations ``where`` read by ``affine_map``."""
    kind, moving = ir.RankedTensorType(value.type), []
    dynamic = ir.ShapedType.get_dynamic_size()
    offsets, sizes = [0] * kind.rank, list(kind.shape)
    for dim, expression in enumerate(affine_map.results):
        found = position_of(expression, extents)
        if found is not None and found[0] in where:
            loop, factor, _ = found
            start, size = where[loop]
            if factor != 1:
                start = arith.muli(start, arith.constant(ir.IndexType.get(), factor))
            moving.append(start)
            offsets[dim] = dynamic
            sizes[dim] -= factor * (extents[loop] - size)
    part = ir.RankedTensorType.get(sizes, kind.element_type)
    return tensor.extract_slice(part, value, moving, [], [], offsets, sizes, [1] * kind.rank)
