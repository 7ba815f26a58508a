"""Which bytes of shared memory what is asynchronous may read and write.

Threads write through the generic proxy, ``cp.async`` included. Before ``wgmma`` reads what they
wrote, or a bulk copy overwrites it, who wrote executes ``fence.proxy.async``, and after that all
meet at a barrier. What a bulk copy wrote is there for who waited for its mbarrier.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cpu_shared import WINDOW, SharedMemory
from cpu_warps import Problem

_BULK = 1 << 20


class Proxies:
    """What the threads of one block wrote to shared memory, at which place of the window.

    The mark of a byte is 0 if nobody wrote it; ``n + 1`` if thread ``n`` did, without a fence
    since then; ``-1 - n`` if a fence came after ``n`` barriers; ``_BULK + n`` if it is of bulk
    copy ``n``.
    """

    def __init__(self) -> None:
        self.base, self.barriers = 0, 0
        self._marks = np.zeros(WINDOW, np.int32)
        self._taken = np.zeros(WINDOW, bool)
        self._landed: dict[int, list[slice]] = {}
        self.memory = np.zeros(0, np.uint8)
        self._bulk: list[tuple[int, int] | None] = []
        self._seen: dict[tuple[int, int], int] = {}
        self._known: dict[int, int] = {}

    def start(self, shared: SharedMemory) -> None:
        """Forget the last block."""
        self.base, self.memory, self.barriers = shared.window, shared.bytes, 0
        self._marks[:], self._taken[:] = 0, False
        self._landed, self._bulk, self._seen, self._known = {}, [], {}, {}
        for first, nbytes in shared.spans:
            self._taken[first : first + nbytes] = True

    def asked(self, thread: int, address: int, nbytes: int) -> None:
        """A copy of this thread will write there."""
        self._marks[self._span(address, nbytes)] = thread + 1

    def landed(self, thread: int, address: int, nbytes: int) -> None:
        """A copy of this thread has written there."""
        self._landed.setdefault(thread, []).append(self._span(address, nbytes))

    def stored(self, thread: int, address: int, nbytes: int) -> None:
        """A thread has written there itself."""
        if 0 <= address - self.base < WINDOW:
            self.asked(thread, address, nbytes)
            self.landed(thread, address, nbytes)

    def fence(self, thread: int) -> None:
        """What this thread has written can be read after a barrier."""
        for span in self._landed.pop(thread, []):
            marks = self._marks[span]
            marks[marks == thread + 1] = -1 - self.barriers

    def holds(self, address: int, nbytes: int) -> bool:
        """Whether these bytes are shared memory of the block."""
        span = self._span(address, nbytes)
        return span.stop - span.start == nbytes and bool(self._taken[span].all())

    def taken(self, places: np.ndarray) -> np.ndarray:
        """Which of these places are in a buffer of the block."""
        return (places < WINDOW) & self._taken[np.minimum(places, WINDOW - 1)]

    def overwrite(self, places: np.ndarray) -> int:
        """A bulk copy will write there; gives its number."""
        self._check(self._marks[places], "a bulk copy overwrites")
        self._bulk.append(None)
        self._marks[places] = _BULK + len(self._bulk) - 1
        return len(self._bulk) - 1

    def arrived(self, number: int, barrier: int, phase: int) -> None:
        """A bulk copy has written; it is there for who has seen the end of this phase."""
        self._bulk[number] = barrier, phase

    def seen(self, thread: int, barrier: int, phase: int) -> None:
        """A thread has waited until this phase, and all copies of the ones before are there."""
        self._seen[thread, barrier] = phase

    def meet(self) -> None:
        """All threads have met at a barrier: each knows what the others have waited for."""
        self.barriers += 1
        for (_, barrier), phase in list(self._seen.items()):
            self._known[barrier] = max(phase, self._known.get(barrier, -1))

    def read(self, places: np.ndarray, nbytes: int, threads: Iterable[int]) -> np.ndarray:
        """Elements of ``nbytes`` at these places, as whole numbers; for ``threads``."""
        if not (self._taken[places] & self._taken[places + nbytes - 1]).all():
            raise Problem("an operand reaches out of the shared memory of its block")
        marks = self._marks[places]
        self._check(marks, "wgmma reads")
        for number in np.unique(marks[marks >= _BULK]) - _BULK:
            barrier, phase = self._bulk[number] or (0, 0)
            known = self._known.get(barrier, -1)
            if any(self._seen.get((thread, barrier), known) <= phase for thread in threads):
                raise Problem("wgmma reads what a bulk copy writes that was not waited for")
        return self.peek(places, nbytes)

    def _check(self, marks: np.ndarray, what: str) -> None:
        generic = marks[(marks > 0) & (marks < _BULK)]
        if generic.size:
            raise Problem(
                f"{what} what thread {generic.max() - 1} wrote without fence.proxy.async after"
                " the write, or after the wait for its copy"
            )
        if (marks == -1 - self.barriers).any():
            raise Problem(f"{what} what was written and fenced, but no barrier came since")

    def peek(self, places: np.ndarray, nbytes: int) -> np.ndarray:
        """What lies there, whoever wrote it."""
        return self.memory.view(f"u{nbytes}")[places // nbytes]

    def _span(self, address: int, nbytes: int) -> slice:
        first = address - self.base
        return slice(first, first + nbytes) if 0 <= first < WINDOW else slice(0, 0)
