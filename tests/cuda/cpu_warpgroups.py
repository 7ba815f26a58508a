"""What the threads of a warpgroup do together, on the processor: ``wgmma`` and its fences.

The sums are there when they are waited for, and not before: until then a register holds a ticket,
which is not a number for whoever computes with it. Each of the four warps computes 16 rows, when it
comes, and waits for no other to do so: the ISA promises no more. Factors are read then, and what
lies there is the same when the sums are there: for one warp after the other, as late as can be.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from cpu_proxies import Proxies
from cpu_warps import Problem
from warpgroup_layouts import places

SIZE = 128
"""Threads of a warpgroup."""
TYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32}
KINDS = tuple(TYPES)
ROWS = 64
_TICKET, _MARK = 0x7FA00000, 0xFFE00000  # a signaling NaN, with 14 bits of a number, 7 of a place
_TICKETS = 1 << 14


@dataclass
class Meeting:
    """Threads and the words they brought; ``turn`` is when it was over."""

    words: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    turn: int | None = None
    result: Any = None


@dataclass(eq=False)
class _Product:
    """What one instruction computes: its operands, the sums of each thread, and for each warp the
    factors: their places, and what was there.
    """

    operands: tuple[int, ...]
    number: int
    sums: np.ndarray
    factors: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)


class Threads(Protocol):
    """What runs the threads of a block: :class:`cpu_threads.Threads`."""

    turn: int
    count: int

    def together(self, words: tuple) -> Meeting:
        """Wait until all lanes of a warp have come."""

    def until(self, is_so: Callable[[], bool]) -> None:
        """Let the others go on until it is so."""


class Warpgroups:
    """The functions, for the threads of one block."""

    def __init__(self, threads: Threads, proxies: Proxies) -> None:
        self._threads, self._proxies = threads, proxies
        self.start()

    def start(self) -> None:
        """Forget the threads of the last block."""
        self._products: dict[int, _Product] = {}
        self._sequences: dict[int, list[_Product]] = {}
        self._asked: dict[int, int] = {}
        self._count = 0
        self._fenced: set[int] = set()
        self._open: dict[int, list[_Product]] = {}
        self._groups: dict[int, list[list[_Product]]] = {}
        self._late: dict[int, Meeting] = {}
        self._random = random.Random(0)

    def problem(self) -> str:
        """What is wrong when all threads have ended, or nothing."""
        left = sum(map(len, (*self._open.values(), *self._groups.values())))
        return "a kernel ends with products of a warpgroup not waited for" if left else ""

    def fence(self, thread: int) -> None:
        """``wgmma.fence``: what this thread wrote to its registers can be read."""
        self._fenced.add(thread)

    def mma(self, thread: int, where: int, *words: int) -> None:
        """``wgmma.mma_async``: the words are those of :meth:`_ask`; sums at ``where``."""
        registers = np.frombuffer(
            (ctypes.c_uint32 * (words[3] // 2)).from_address(where), np.uint32
        )
        meeting = self._threads.together((*words, registers.copy()))
        if meeting.result is None:
            meeting.result = self._ask(meeting)
        product = meeting.result
        self._open.setdefault(thread, []).append(product)
        number = product.number % _TICKETS << 7
        registers[:] = np.arange(len(registers), dtype=np.uint32) + np.uint32(_TICKET | number)

    def _ask(self, meeting: Meeting) -> _Product:
        """The part of one warp, whose lanes have come."""
        threads = sorted(meeting.words)
        operands = meeting.words[threads[0]][:-1]
        a, b, kind, n, a_turned, b_turned, adds = operands
        group, first = divmod(threads[0], SIZE)
        if (group + 1) * SIZE > self._threads.count:
            raise Problem(f"a block of {self._threads.count} threads has no whole warpgroup")
        product = self._next(threads[0] // 32, operands)
        if any(meeting.words[thread][:-1] != product.operands for thread in threads):
            raise Problem("threads of a warpgroup bring different descriptors to wgmma")
        sums = self._sums(threads, np.stack([meeting.words[n][-1] for n in threads]), n)
        type_ = TYPES[KINDS[kind]]
        size = np.dtype(type_).itemsize
        factors = []
        for word, turned, extent, rows in (
            (a, a_turned, ROWS, slice(first // 2, first // 2 + 16)),
            (b, b_turned, n, slice(None)),
        ):
            where = places(word & (1 << 64) - 1, bool(turned), size, extent, 32 // size)[rows]
            factors.append((where, self._proxies.read(where, size, threads)))
        left, right = (_values(bits, type_) for _, bits in factors)
        found = left @ right.T + (_as_matrix(sums) if adds else 0)
        product.sums[first : first + 32] = _as_registers(found.astype(np.float32))
        product.factors[first // 32] = factors
        return product

    def _next(self, warp: int, operands: tuple[int, ...]) -> _Product:
        """The product that a warp comes to: it may be the first of the four."""
        sequence = self._sequences.setdefault(warp // 4, [])
        number = self._asked.get(warp, 0)
        self._asked[warp] = number + 1
        if number == len(sequence):
            sums = np.zeros((SIZE, operands[3] // 2), np.float32)
            sequence.append(_Product(operands, self._count, sums))
            self._products[self._count % _TICKETS] = sequence[-1]
            self._count += 1
        return sequence[number]

    def _sums(self, threads: list[int], bits: np.ndarray, n: int) -> np.ndarray:
        """Values of the registers that a product adds to, thread by thread."""
        pending = bits & _MARK == _TICKET
        if not pending.all() and not self._fenced.issuperset(threads):
            raise Problem("wgmma on registers that were written, without wgmma.fence since then")
        bits = bits.copy()
        for number in np.unique(bits[pending] >> 7 & _TICKETS - 1):
            product = self._products[int(number)]
            if product.sums.shape[1] != n // 2:
                raise Problem("wgmma adds to sums of another shape that were not waited for")
            mine = pending & (bits >> 7 & _TICKETS - 1 == number)
            rows = threads[0] % SIZE + np.nonzero(mine)[0]
            bits[mine] = product.sums.view(np.uint32)[rows, bits[mine] & 127]
        return bits.view(np.float32)

    def commit(self, thread: int) -> None:
        """``wgmma.commit_group``: a group of the products since the last one."""
        self._groups.setdefault(thread, []).append(self._open.pop(thread, []))

    def wait(self, thread: int, count: int) -> None:
        """``wgmma.wait_group``: all but the last ``count`` groups are there."""
        self._threads.together((count,))
        groups = self._groups.get(thread, [])
        if len(groups) > count:
            late = self._late.setdefault(thread // 32, Meeting())
            late.result = [product for group in groups[: len(groups) - count] for product in group]
            self._threads.until(lambda: late.turn is not None and late.turn < self._threads.turn)
        while len(groups) > count:
            for product in groups.pop(0):
                self._check(thread, product)
                product.done.add(thread)
        self._fenced.discard(thread)

    def finish(self) -> bool:
        """Let products be there that a warp waits for, and all four came to; whether one does."""
        ready = [
            warp
            for warp, late in sorted(self._late.items())
            if all(len(product.factors) == 4 for product in late.result)
        ]
        if ready:
            warp = self._random.choice(ready)  # the same in each run
            self._late.pop(warp).turn = self._threads.turn
        return bool(ready)

    def _check(self, thread: int, product: _Product) -> None:
        if thread % 32:  # the lanes of a warp wait as one
            return
        for where, before in product.factors[thread % SIZE // 32]:
            if (self._proxies.peek(where, before.itemsize) != before).any():
                raise Problem("factors of wgmma were written to before it was waited for")

    def tie(self, thread: int, where: int, words: int, count: int) -> None:
        """The same, and the sums among these words at ``where`` become what they are."""
        self.wait(thread, count)
        registers = np.frombuffer((ctypes.c_uint32 * words).from_address(where), np.uint32)
        for place in np.nonzero(registers & _MARK == _TICKET)[0]:
            registers[place] = self.value(thread, int(registers[place]))

    def value(self, thread: int, bits: int) -> int:
        """What a register holds: sums, if they were waited for, else the ticket itself."""
        if bits & _MARK != _TICKET:
            return bits
        product = self._products.get(bits >> 7 & _TICKETS - 1)
        if product is None or thread not in product.done:
            return bits
        return int(product.sums[thread % SIZE, bits & 127].view(np.uint32))


def _values(bits: np.ndarray, kind: type) -> np.ndarray:
    if kind == np.float32:  # the chip reads the upper 19 bits
        bits = bits & np.uint32(0xFFFFE000)
    return np.ascontiguousarray(bits).view(kind).astype(np.float64)


def _as_matrix(registers: np.ndarray) -> np.ndarray:
    """16 rows of sums from those of 32 lanes: group of 4, lane; column, row, one of 2."""
    parts = registers.reshape(8, 4, -1, 2, 2).astype(np.float64)
    return parts.transpose(3, 0, 2, 1, 4).reshape(16, -1)


def _as_registers(sums: np.ndarray) -> np.ndarray:
    parts = sums.reshape(2, 8, -1, 4, 2).transpose(1, 3, 2, 0, 4)
    return parts.reshape(32, -1)
