"""What the threads of a warpgroup do together, on the processor: ``wgmma`` and its fences.

The sums are there when they are waited for, and not before: until then a register holds a ticket,
which is not a number for whoever computes with it. Factors are read when the product is asked for,
and compared with what lies there when it is there: for one warp after the other, as late as can be.
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
_TICKET, _MARK = (
    0x7FA00000,
    0xFFE00000,
)  # a signaling NaN, with 14 bits of a number and 7 of a place
_TICKETS = 1 << 14


@dataclass
class Meeting:
    """Threads and the words they brought; ``turn`` is when it was over."""

    words: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    turn: int | None = None
    result: Any = None


@dataclass(eq=False)
class _Product:
    """The sums that each thread will get, and the factors: their places and what was there."""

    sums: np.ndarray
    factors: list[tuple[np.ndarray, np.ndarray]]
    number: int = 0
    done: set[int] = field(default_factory=set)


class Threads(Protocol):
    """What runs the threads of a block: :class:`cpu_threads.Threads`."""

    turn: int

    def together(self, words: tuple, size: int) -> Meeting:
        """Wait until all of ``size`` threads have come."""

    def meet(self, words: tuple) -> Any:
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
        meeting = self._threads.together((*words, registers.copy()), SIZE)
        if meeting.result is None:
            meeting.result = self._ask(meeting)
        product = meeting.result
        self._open.setdefault(thread, []).append(product)
        number = product.number % _TICKETS << 7
        registers[:] = np.arange(len(registers), dtype=np.uint32) + np.uint32(_TICKET | number)

    def _ask(self, meeting: Meeting) -> _Product:
        threads = sorted(meeting.words)
        if len({meeting.words[n][:-1] for n in threads}) > 1:
            raise Problem("threads of a warpgroup bring different descriptors to wgmma")
        a, b, kind, n, a_turned, b_turned, adds = meeting.words[threads[0]][:-1]
        sums = self._sums(threads, np.stack([meeting.words[n][-1] for n in threads]), n)
        type_ = TYPES[KINDS[kind]]
        size = np.dtype(type_).itemsize
        depth, factors = 32 // size, []
        for word, turned, extent in ((a, a_turned, ROWS), (b, b_turned, n)):
            where = places(word & (1 << 64) - 1, bool(turned), size, extent, depth)
            factors.append((where, self._proxies.read(where, size, threads)))
        left, right = (_values(bits, type_) for _, bits in factors)
        product = left @ right.T
        start = _as_matrix(sums) if adds else 0
        found = _Product(_as_registers((product + start).astype(np.float32)), factors, self._count)
        self._products[self._count % _TICKETS] = found
        self._count += 1
        return found

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
            bits[mine] = product.sums.view(np.uint32)[np.nonzero(mine)[0], bits[mine] & 127]
        return bits.view(np.float32)

    def commit(self, thread: int) -> None:
        """``wgmma.commit_group``: a group of the products since the last one."""
        self._groups.setdefault(thread, []).append(self._open.pop(thread, []))

    def wait(self, thread: int, count: int) -> None:
        """``wgmma.wait_group``: all but the last ``count`` groups are there."""
        self._threads.meet((count,))
        groups = self._groups.get(thread, [])
        if len(groups) > count:
            late = self._late.setdefault(thread // 32, Meeting())
            self._threads.until(lambda: late.turn is not None and late.turn < self._threads.turn)
        while len(groups) > count:
            for product in groups.pop(0):
                self._check(thread, product)
                product.done.add(thread)
        self._fenced.discard(thread)

    def finish(self) -> bool:
        """Let the products be there that a warp waits for; whether one does."""
        if not self._late:
            return False
        warp = self._random.choice(sorted(self._late))  # the same in each run
        self._late.pop(warp).turn = self._threads.turn
        return True

    def _check(self, thread: int, product: _Product) -> None:
        if thread % 32:  # the lanes of a warp wait as one
            return
        for where, before in product.factors:
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
    """64 rows of sums from those of 128 threads: warp, group of 4, lane; column, row, one of 2."""
    parts = registers.reshape(4, 8, 4, -1, 2, 2).astype(np.float64)
    return parts.transpose(0, 4, 1, 3, 2, 5).reshape(ROWS, -1)


def _as_registers(sums: np.ndarray) -> np.ndarray:
    parts = sums.reshape(4, 2, 8, -1, 4, 2).transpose(0, 2, 4, 3, 1, 5)
    return np.ascontiguousarray(parts.reshape(SIZE, -1))
