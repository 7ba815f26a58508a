"""Barriers in shared memory, and boxes that the chip copies by itself (TMA), on the processor.

Read from the PTX ISA: "mbarrier" and ``cp.async.bulk.tensor``. A copy lands, and its bytes are
counted, when nobody can go on without: as late as possible. What it will overwrite is poisoned as
soon as it is asked for.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from cpu_proxies import Proxies
from cpu_shared import POISON
from cpu_warps import Problem
from tensor_maps import ALIGNMENT, NBYTES, SWIZZLED, TensorMap

MOST = (1 << 20) - 1
"""Arrivals, or bytes of transactions, that a barrier counts."""
_BOX_ALIGNMENT = 128


@dataclass(eq=False)
class _Barrier:
    """``pending`` arrivals and ``bytes`` of transactions of the current ``phase``; ``turn`` is when
    the one before ended. ``fenced``: whether what is asynchronous can see the barrier.
    """

    expected: int
    owner: int
    barriers: int
    pending: int
    phase: int = 0
    bytes: int = 0
    turn: int = -1
    fenced: bool = False
    waiting: int = 0


@dataclass
class _Copy:
    """A box that was asked for: where its bytes go, and which it will write."""

    map: TensorMap
    coordinates: tuple[int, ...]
    to: np.ndarray
    barrier: _Barrier
    landing: int = 0
    seen: set[int] = field(default_factory=set)


class Barriers:
    """The functions, for the threads of one block. ``until(condition)`` lets the others go on until
    it is so; ``turn()`` is the number of the turn of all threads.
    """

    def __init__(
        self, proxies: Proxies, until: Callable[..., None], turn: Callable[[], int]
    ) -> None:
        self._proxies, self._until, self._turn = proxies, until, turn
        self.start()

    def start(self) -> None:
        """Forget the barriers of the last block."""
        self._barriers: dict[int, _Barrier] = {}
        self._copies: list[_Copy] = []

    def problem(self) -> str:
        """What is wrong when all threads have ended, or nothing."""
        return "a kernel ends while bulk copies are under way" if self._copies else ""

    def init(self, thread: int, address: int, count: int, taken: int) -> None:
        """``mbarrier.init``; ``taken`` is its predicate."""
        if not taken:
            return
        if address % 8 or not self._proxies.holds(address, 8):
            raise Problem(f"an mbarrier at {address:#x}: no multiple of 8 in shared memory")
        if not 1 <= count <= MOST:
            raise Problem(f"an mbarrier for {count} arrivals")
        if address in self._barriers:
            raise Problem("mbarrier.init where there is an mbarrier, without mbarrier.inval")
        self._barriers[address] = _Barrier(count, thread, self._proxies.barriers, count)

    def inval(self, thread: int, address: int) -> None:
        """``mbarrier.inval``."""
        self._at(thread, address)
        del self._barriers[address]

    def fence(self, thread: int) -> None:
        """``fence.mbarrier_init`` or ``fence.proxy.async``: what is asynchronous sees barriers that
        this thread made.
        """
        for barrier in self._barriers.values():
            barrier.fenced |= barrier.owner == thread

    def _at(self, thread: int, address: int) -> _Barrier:
        barrier = self._barriers.get(address)
        if barrier is None:
            raise Problem(f"no mbarrier was made at {address:#x}")
        if barrier.owner != thread and barrier.barriers == self._proxies.barriers:
            raise Problem("an mbarrier is used that another thread made, and no barrier came since")
        return barrier

    def arrive(self, thread: int, address: int, count: int, nbytes: int, taken: int) -> int:
        """``mbarrier.arrive``, after ``nbytes`` were expected; gives the phase."""
        if not taken:
            return 0
        barrier = self._at(thread, address)
        phase = barrier.phase
        self._expect(barrier, nbytes)
        if count > barrier.pending:
            raise Problem(f"{count} arrivals at an mbarrier that waits for {barrier.pending}")
        barrier.pending -= count
        self._complete(barrier)
        return phase

    def expect(self, thread: int, address: int, nbytes: int) -> None:
        """``mbarrier.expect_tx``."""
        self._expect(self._at(thread, address), nbytes)

    def _expect(self, barrier: _Barrier, nbytes: int) -> None:
        barrier.bytes += nbytes
        if not -MOST <= barrier.bytes <= MOST:
            raise Problem(f"an mbarrier counts {barrier.bytes} bytes, more than {MOST}")

    def _complete(self, barrier: _Barrier) -> None:
        if barrier.pending == 0 and barrier.bytes == 0:
            barrier.phase, barrier.pending = barrier.phase + 1, barrier.expected
            barrier.turn = self._turn()
            self._proxies.barriers += 1

    def wait(self, thread: int, address: int, parity: int) -> None:
        """``mbarrier.try_wait.parity`` until the phase of this parity is over."""
        if parity not in (0, 1):
            raise Problem(f"a phase has parity 0 or 1, not {parity}")
        barrier = self._at(thread, address)
        barrier.waiting += 1
        self._until(lambda: barrier.phase % 2 != parity and barrier.turn < self._turn())
        barrier.waiting -= 1
        self._proxies.seen(thread, id(barrier), barrier.phase)

    def test(self, thread: int, address: int, phase: int, parity: int) -> int:
        """``mbarrier.test_wait`` or ``try_wait``, which may come back without success."""
        barrier, turn = self._at(thread, address), self._turn()

        def is_over() -> bool:
            return (barrier.phase % 2 != phase) if parity else barrier.phase > phase

        if not is_over():
            barrier.waiting += 1
            self._until(lambda: self._turn() > turn, polls=True)
            barrier.waiting -= 1
        if not is_over():
            return 0
        self._proxies.seen(thread, id(barrier), barrier.phase)
        return 1

    def copy(self, thread: int, to: int, map: int, address: int, taken: int, *where: int) -> None:
        """``cp.async.bulk.tensor``: ``where`` is the rank, and five coordinates."""
        if not taken:
            return
        barrier, found = self._at(thread, address), _map_at(map)
        rank = where[0]
        if not barrier.fenced:
            raise Problem("a bulk copy whose mbarrier was made without a fence after mbarrier.init")
        if rank != len(found.dims):
            raise Problem(f"{rank} coordinates in a tensor of {len(found.dims)} dimensions")
        places = _box_places(found, to - self._proxies.base)
        if to % _BOX_ALIGNMENT or not self._proxies.taken(places).all():
            raise Problem("a box goes to no multiple of 128 in the shared memory of its block")
        asked = _Copy(found, tuple(where[1 : 1 + rank]), places, barrier)
        asked.landing = self._proxies.overwrite(places)
        self._proxies.memory[places] = POISON
        self._copies.append(asked)

    def land(self) -> bool:
        """Let the copies that somebody waits for land; whether there were any."""
        ready = [copy for copy in self._copies if copy.barrier.waiting]
        if not ready:
            return False
        barrier = ready[-1].barrier
        for copy in ready:
            if copy.barrier is barrier:
                self._copies.remove(copy)
                self._proxies.memory[copy.to] = _box(copy.map, copy.coordinates)
                self._proxies.arrived(copy.landing, id(barrier), barrier.phase)
                self._expect(barrier, -copy.map.box_bytes)
        self._complete(barrier)
        return True


def _map_at(address: int) -> TensorMap:
    if address % ALIGNMENT:
        raise Problem("a tensor map is no multiple of 64")
    found = TensorMap.unpack(ctypes.string_at(address, NBYTES))
    row = SWIZZLED[found.swizzle]
    if row and found.box[0] * found.element_size < row:
        raise Problem("rows of a box that are shorter than the swizzle are not emulated")
    return found


def _box_places(found: TensorMap, start: int) -> np.ndarray:
    """Where the bytes of a box go, row by row: 16 of them change places by bits 7 to 9."""
    linear = start + np.arange(found.box_bytes)
    mask = ((SWIZZLED[found.swizzle] or 16) // 16 - 1) << 4
    return linear ^ (linear >> 3 & mask)


def _box(found: TensorMap, coordinates: tuple[int, ...]) -> np.ndarray:
    """The bytes of a box, zero or not a number beyond the tensor."""
    size = found.element_size
    strides = (size, *found.strides)
    fill = _nan(found) if found.oob_fill else bytes(size)
    numbers = [
        range(first, first + extent, step)
        for first, extent, step in zip(coordinates, found.box, found.element_strides, strict=True)
    ]
    rows = []
    for outer in itertools.product(*reversed(numbers[1:])):
        position = outer[::-1]
        inside = all(0 <= n < dim for n, dim in zip(position, found.dims[1:], strict=True))
        base = found.address + sum(n * s for n, s in zip(position, strides[1:], strict=True))
        for n in numbers[0]:
            there = inside and 0 <= n < found.dims[0]
            rows.append(ctypes.string_at(base + n * size, size) if there else fill)
    return np.frombuffer(b"".join(rows), np.uint8)


def _nan(found: TensorMap) -> bytes:
    if found.data_type < 6:
        raise Problem("only numbers of floating point can be filled with what is none")
    return b"\xff" * found.element_size
