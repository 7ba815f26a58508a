"""What a machine can do at most: multiply-adds, and bytes from and to memory, by measurement.

Small vector programs, compiled like any other: what they reach is what a schedule can reach.
On several threads, each has data of its own and all run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
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
    """GB/s (10^9 bytes a second) of all threads together.

    ``copy`` counts the bytes that are read and those that are written; so does ``triad``,
    which is ``a[i] = b[i] + 2 * c[i]`` (McCalpin, STREAM, https://www.cs.virginia.edu/stream).
    """

    read: float
    copy: float
    triad: float

    @property
    def best(self) -> float:
        """The most of the three."""
        return max(self.read, self.copy, self.triad)


def fma_peak(dtype: str = "f32", target: Target | None = None, *, threads: int = 1) -> float:
    """GFLOP/s of ``threads`` threads that do nothing but fused multiply-adds, two a lane.

    The best of many runs: another program on the same core lowers it.
    """
    target = target or Target.host()
    executable, lanes = fma_program(dtype, target)
    values = np.ones((2, lanes), _TYPES[dtype][1])
    return 2 * lanes * accumulators(target) * STEPS * _rate(executable, values, threads) / 1e9


def memory_bandwidth(
    target: Target | None = None, *, threads: int = 1, nbytes: int | None = None
) -> Bandwidth:
    """Measure passes over ``nbytes`` bytes a thread, of all the arrays of a pass together.

    Without ``nbytes``, each array is four times as large as the last cache, and at most
    ``LARGEST``: a part of that may stay in a larger cache.
    """
    target = target or Target.host()
    lanes = target.lanes(32)

    def rate(program: Callable[[int, int, Target], Executable], inputs: int, arrays: int) -> float:
        size = nbytes // arrays if nbytes else min(LARGEST, 4 * target.caches[2])
        count = max(1, size // 4 // (lanes * UNROLL)) * (lanes * UNROLL)
        values = np.ones((inputs, count) if inputs > 1 else count, np.float32)
        return 4 * arrays * count * _rate(program(count, lanes, target), values, threads) / 1e9

    return Bandwidth(
        read=rate(_read_program, 1, 1), copy=rate(_copy_program, 1, 2), triad=rate(_triad, 2, 3)
    )


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
    """A copy of ``count`` numbers; gives the first of them."""

    def element(values: ir.Value, place: ir.Value) -> ir.Value:
        return _load(values, [place], lanes)

    return _compile([count], "f32", _writer(count, lanes, element), target)


def _triad(count: int, lanes: int, target: Target) -> Executable:
    """The first row of ``2 x count`` numbers plus twice the second; gives the first sums."""

    def element(values: ir.Value, place: ir.Value) -> ir.Value:
        first, second = (_load(values, [_index(n), place], lanes) for n in range(2))
        two = arith.constant(ir.VectorType(first.type).element_type, 2.0)
        return vector.fma(vector.broadcast(first.type, two), second, first)

    return _compile([2, count], "f32", _writer(count, lanes, element), target)


def _writer(
    count: int, lanes: int, element: Callable[[ir.Value, ir.Value], ir.Value]
) -> Callable[[ir.Value, ir.Type], ir.Value]:
    """The body of a program that writes ``count`` numbers into the arena.

    A result would be fresh memory in every call, which costs more than to write it. Gives a few
    of the numbers, or there would be nothing to compute.
    """

    def body(values: ir.Value, kind: ir.Type) -> ir.Value:
        start = tensor.empty([count], kind)
        loop = scf.ForOp(_index(0), _index(count), _index(lanes * UNROLL), [start])
        with ir.InsertionPoint(loop.body):
            written = loop.inner_iter_args[0]
            for place in _places(loop.induction_variable, lanes):
                written = _store(element(values, place), written, place)
            scf.YieldOp([written])
        few = _load(loop.results[0], [_index(0)], lanes)
        return _store(few, tensor.empty([lanes], kind), _index(0))

    return body


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


def _rate(executable: Executable, values: np.ndarray, threads: int) -> float:
    """Calls a second of all threads together, of the fastest call of each."""
    from mlcflow.schedule.program import measure

    start = Barrier(threads)

    def run(number: int) -> float:
        own = values.copy()
        start.wait()
        return 1 / measure(executable, [own], budget=0.2)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, range(threads)))
