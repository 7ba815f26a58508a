"""Which bytes of shared memory what is asynchronous may read.

Threads write through the generic proxy, ``cp.async`` included. Before ``wgmma`` reads what they
wrote, who wrote executes ``fence.proxy.async``, and after that all meet at a barrier.
"""

from __future__ import annotations

import numpy as np
from cpu_shared import WINDOW, SharedMemory
from cpu_warps import Problem


class Proxies:
    """What the threads of one block wrote to shared memory, at which place of the window.

    The mark of a byte is 0 if nobody wrote it; ``n + 1`` if thread ``n`` did, without a fence
    since then; ``-1 - n`` if a fence came after ``n`` barriers.
    """

    def __init__(self) -> None:
        self.base, self.barriers = 0, 0
        self._marks = np.zeros(WINDOW, np.int32)
        self._taken = np.zeros(WINDOW, bool)
        self._landed: dict[int, list[slice]] = {}
        self.memory = np.zeros(0, np.uint8)

    def start(self, shared: SharedMemory) -> None:
        """Forget the last block."""
        self.base, self.memory, self.barriers = shared.window, shared.bytes, 0
        self._marks[:], self._taken[:] = 0, False
        self._landed = {}
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

    def read(self, places: np.ndarray, nbytes: int) -> np.ndarray:
        """Elements of ``nbytes`` at these places, as whole numbers."""
        if not (self._taken[places] & self._taken[places + nbytes - 1]).all():
            raise Problem("an operand reaches out of the shared memory of its block")
        marks = self._marks[places]
        if (marks > 0).any():
            raise Problem(
                f"wgmma reads what thread {marks.max() - 1} wrote without fence.proxy.async after"
                " the write, or after the wait for its copy"
            )
        if (marks == -1 - self.barriers).any():
            raise Problem("wgmma reads what was written and fenced, but no barrier came since")
        return self.peek(places, nbytes)

    def peek(self, places: np.ndarray, nbytes: int) -> np.ndarray:
        """What lies there, whoever wrote it."""
        return self.memory.view(f"u{nbytes}")[places // nbytes]

    def _span(self, address: int, nbytes: int) -> slice:
        first = address - self.base
        return slice(first, first + nbytes) if 0 <= first < WINDOW else slice(0, 0)
