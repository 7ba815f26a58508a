"""What one core can do at most: multiply-adds, and bytes from and to memory, by measurement.

Small vector programs, compiled like any other: what they reach is what a schedule can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlcflow.errors import MlcflowError
from mlcflow.mlir import arith, context, func, ir, scf, tensor, vector
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable

STEPS = 1 << 18
"""Iterations of the FMA program: some milliseconds."""

UNROLL = 8
"""Vectors an iteration of the memory programs; enough to hide the latency of a load."""

LARGEST = 256 << 20
"""Bytes that the memory programs go through at most."""

_TYPES: dict[str, tuple[type[ir.Type], type[np.generic], int]] = {
    "f32": (ir.F32Type, np.float32, 32),
    "f64": (ir.F64Type, np.float64, 64),
}


@dataclass(frozen=True)
class Bandwidth:
    """GB/s (10^9 bytes a second) of one thread, in arrays too large for its own caches.

    ``copy`` counts the bytes that are read and those that are written.
    """

    read: float
    copy: float


def fma_peak(dtype: str = "f32", target: Target | None = None) -> float:
    """GFLOP/s of one thread that does nothing but fused multiply-adds, two operations a lane.

    The best of many runs: another program on the same core lowers it.
    """
    target = target or Target.host()
    executable, lanes = fma_program(dtype, target)
    values = np.ones((2, lanes), _TYPES[dtype][1])
    return 2 * lanes * accumulators(target) * STEPS / _best(executable, values) / 1e9


def memory_bandwidth(target: Target | None = None) -> Bandwidth:
    """Measure reading and copying an array four times as large as the last cache.

    At most ``LARGEST`` bytes: a part of that may stay in a larger cache.
    """
    target = target or Target.host()
    nbytes = min(LARGEST, 4 * target.caches[2])
    lanes = target.lanes(32)
    count = nbytes // 4 // (lanes * UNROLL) * (lanes * UNROLL)
    values = np.ones(count, np.float32)
    read = _best(_read_program(count, lanes, target), values)
    copy = _best(_copy_program(count, lanes, target), values)
    return Bandwidth(values.nbytes / read / 1e9, 2 * values.nbytes / copy / 1e9)


def accumulators(target: Target) -> int:
    """Independent sums: more than latency times ports of any core, and they fit the registers."""
    return min(16, target.vector_registers - 4)


def fma_program(dtype: str, target: Target) -> tuple[Executable, int]:
    """A loop of independent fused multiply-adds on registers, and the lanes of each.

    ``@main`` takes the two factors, ``2 x lanes``, and gives the sum of the accumulators.
    """
    if dtype not in _TYPES:
        raise MlcflowError(f"peak: expected a type among {', '.join(_TYPES)}, got '{dtype}'")
    lanes = target.lanes(_TYPES[dtype][2])

    def body(values: ir.Value, element: ir.Type) -> ir.Value:
        first, second = (_load(values, [_index(n), _index(0)], lanes) for n in range(2))
        # Different initial values: equal accumulators would be computed once.
        starts = [first]
        for _ in range(accumulators(target) - 1):
            starts.append(arith.addf(starts[-1], second))
        loop = scf.ForOp(_index(0), _index(STEPS), _index(1), starts)
        with ir.InsertionPoint(loop.body):
            scf.YieldOp([vector.fma(first, second, each) for each in loop.inner_iter_args])
        total = loop.results[0]
        for each in list(loop.results)[1:]:
            total = arith.addf(total, each)
        return _store(total, tensor.empty([lanes], element), _index(0))

    return _compile([2, lanes], dtype, body, target), lanes


def _read_program(count: int, lanes: int, target: Target) -> Executable:
    """The sum of ``count`` numbers, lane by lane."""

    def body(values: ir.Value, element: ir.Type) -> ir.Value:
        zero = arith.constant(element, 0.0)
        sums = [vector.broadcast(ir.VectorType.get([lanes], element), zero)] * UNROLL
        loop = scf.ForOp(_index(0), _index(count), _index(lanes * UNROLL), sums)
        with ir.InsertionPoint(loop.body):
            places = _places(loop.induction_variable, lanes)
            scf.YieldOp(
                [
                    arith.addf(each, _load(values, [place], lanes))
                    for each, place in zip(loop.inner_iter_args, places, strict=True)
                ]
            )
        total = loop.results[0]
        for each in list(loop.results)[1:]:
            total = arith.addf(total, each)
        return _store(total, tensor.empty([lanes], element), _index(0))

    return _compile([count], "f32", body, target)


def _copy_program(count: int, lanes: int, target: Target) -> Executable:
    """A copy of ``count`` numbers into the arena.

    A result would be fresh memory in every call, which costs more than to copy. Gives a few
    of the numbers, or there would be nothing to compute.
    """

    def body(values: ir.Value, element: ir.Type) -> ir.Value:
        start = tensor.empty([count], element)
        loop = scf.ForOp(_index(0), _index(count), _index(lanes * UNROLL), [start])
        with ir.InsertionPoint(loop.body):
            written = loop.inner_iter_args[0]
            for place in _places(loop.induction_variable, lanes):
                written = _store(_load(values, [place], lanes), written, place)
            scf.YieldOp([written])
        few = _load(loop.results[0], [_index(0)], lanes)
        return _store(few, tensor.empty([lanes], element), _index(0))

    return _compile([count], "f32", body, target)


def _places(first: ir.Value, lanes: int) -> list[ir.Value]:
    return [arith.addi(first, _index(lanes * number)) for number in range(UNROLL)]


def _index(value: int) -> ir.Value:
    return arith.constant(ir.IndexType.get(), value)


def _load(source: ir.Value, place: list[ir.Value], lanes: int) -> ir.Value:
    element = ir.RankedTensorType(source.type).element_type
    padding = arith.constant(element, 0.0)
    kind = ir.VectorType.get([lanes], element)
    return vector.transfer_read(kind, source, place, _last(len(place)), padding, in_bounds=[True])


def _store(value: ir.Value, destination: ir.Value, place: ir.Value) -> ir.Value:
    result: ir.Value = vector.transfer_write(
        destination.type, value, destination, [place], _last(1), in_bounds=[True]
    )
    return result


def _last(rank: int) -> ir.AffineMap:
    """The map to the last dimension, along which vectors lie."""
    return ir.AffineMap.get(rank, 0, [ir.AffineExpr.get_dim(rank - 1)])


def _compile(
    shape: list[int],
    dtype: str,
    body: Callable[[ir.Value, ir.Type], ir.Value],
    target: Target,
) -> Executable:
    from mlcflow.schedule.program import load_program

    with context(), ir.Location.unknown():
        module = ir.Module.create()
        element = _TYPES[dtype][0].get()
        with ir.InsertionPoint(module.body):
            main = func.FuncOp("main", ([ir.RankedTensorType.get(shape, element)], []))
        with ir.InsertionPoint(main.add_entry_block()):
            result = body(main.arguments[0], element)
            func.ReturnOp([result])
        signature = ir.FunctionType.get(main.type.inputs, [result.type])
        main.attributes["function_type"] = ir.TypeAttr.get(signature)
        return load_program(module, target)


def _best(executable: Executable, values: np.ndarray) -> float:
    from mlcflow.schedule.program import measure

    return measure(executable, [values], budget=0.3)
