"""The threads of a block on the processor: greenlets, which take turns."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import barrier_calls
import cpu_warps
import greenlet
import numpy as np
import warpgroup_calls as groups
from cpu_barriers import Barriers
from cpu_proxies import Proxies
from cpu_warpgroups import Meeting, Warpgroups
from cpu_warps import Problem

BARRIER, SHUFFLE, VALID = "test_barrier", "test_shuffle", "test_shuffle_valid"
_PATIENCE = 3  # turns in which nobody gets on, before it is said that nobody ever will


class Divergence(Exception):
    """Some threads of a block wait where others never come."""


class Threads:
    """Runs the threads of a block in turns, from one barrier or shuffle to the next."""

    def __init__(self) -> None:
        self._hub = greenlet.getcurrent()
        self._slots: list[list[tuple[int, int]]] = []
        self.turn, self.count, self._problem = 0, 0, ""
        self._at_barrier: list[bool] = []
        self._is_valid: list[bool] = []
        self._running = 0
        self.warps = warps = cpu_warps.Warps(self.meet)
        word = ctypes.c_int64
        self._blocked: list[bool] = []
        self._moved = self._stopped = False
        self._meetings: dict[int, Meeting] = {}
        self.proxies = proxies = Proxies()
        warps.on_copy, warps.on_landing = proxies.asked, proxies.landed
        self.warpgroups = together = Warpgroups(self, proxies)
        self.barriers = bars = Barriers(proxies, self.until, lambda: self.turn)
        functions = {
            groups.MMA: together.mma, groups.FENCE: together.fence, groups.COMMIT: together.commit,
            groups.WAIT: together.wait, groups.TIE: together.tie, groups.VALUE: together.value,
            groups.PROXY: self._fence, groups.STORED: proxies.stored,
            barrier_calls.INIT: bars.init, barrier_calls.INVAL: bars.inval,
            barrier_calls.FENCE: bars.fence, barrier_calls.ARRIVE: bars.arrive,
            barrier_calls.EXPECT: bars.expect, barrier_calls.WAIT: bars.wait,
            barrier_calls.TEST: bars.test, barrier_calls.COPY: bars.copy,
            barrier_calls.ELECT: lambda thread: thread % 32 == 0,
            cpu_warps.COPY: warps.copy, cpu_warps.COMMIT: warps.commit, cpu_warps.WAIT: warps.wait,
        }  # fmt: skip
        arguments = groups.ARGUMENTS | barrier_calls.ARGUMENTS | cpu_warps.ARGUMENTS
        self.callbacks = {
            name: ctypes.PYFUNCTYPE(word if gives else None, *[word] * takes)(
                self._of_thread(functions[name])
            )
            for name, (takes, gives) in arguments.items()
            if name in functions
        } | {
            cpu_warps.LDMATRIX: ctypes.PYFUNCTYPE(word, *[word] * 3)(self._kept(warps.ldmatrix)),
            cpu_warps.MMA: ctypes.PYFUNCTYPE(word, *[word] * 11)(self._kept(warps.mma)),
            BARRIER: ctypes.PYFUNCTYPE(None)(self._kept(self._wait)),
            VALID: ctypes.PYFUNCTYPE(ctypes.c_int64)(self._valid),
            SHUFFLE: ctypes.PYFUNCTYPE(
                ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
            )(self._kept(self._shuffle)),
        }

    def run(self, calls: list) -> None:
        self._hub = greenlet.getcurrent()
        self._slots, self.count = [[(0, 0), (0, 0)] for _ in calls], len(calls)
        self.turn, self._problem, self._stopped = 0, "", False
        self.warps.start()
        self.warpgroups.start()
        self.barriers.start()
        self._blocked, self._meetings = [False] * len(calls), {}
        self._at_barrier = [False] * len(calls)
        self._is_valid = [False] * len(calls)
        threads = [greenlet.greenlet(call) for call in calls]
        stalled = 0
        while live := [n for n, thread in enumerate(threads) if not thread.dead]:
            # Those in a shuffle go on among themselves, while others wait at a barrier.
            ready = [n for n in live if not self._at_barrier[n]]
            if not ready:
                if len(live) < len(threads):
                    self._problem = f"{len(live)} of {len(threads)} threads wait for the others"
                    break
                ready, self._at_barrier = live, [False] * len(calls)
                self.proxies.meet()
            self.turn += 1
            self._moved = not all(self._blocked[number] for number in ready)
            for number in ready:
                self._running = number
                threads[number].switch()
            stalled = 0 if self._moved or self._land() else stalled + 1
            if stalled > _PATIENCE:
                self._problem = f"threads wait for ever, thread {ready[0]} among them"
            if self._problem:
                break
        self._end(threads)

    def _land(self) -> bool:
        """Nobody can go on: let bulk copies land, or products be there."""
        try:
            return self.barriers.land() or self.warpgroups.finish()
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"
            return True

    def _fence(self, thread: int) -> None:
        """``fence.proxy.async``"""
        self.proxies.fence(thread)
        self.barriers.fence(thread)

    def _end(self, threads: list[greenlet.greenlet]) -> None:
        """Let all threads end, without waiting for anything, and say what went wrong."""
        self._stopped = True
        for number, thread in enumerate(threads):
            self._running = number
            if not thread.dead:
                thread.switch()
        self._problem = self._problem or self.warpgroups.problem() or self.barriers.problem()
        if self._problem:
            raise Divergence(self._problem)

    def _pause(self) -> None:
        """Hand over to the other threads."""
        self._hub.switch()
        if self._stopped:
            raise Divergence(self._problem)

    def _kept(self, function):
        """An exception would get lost in C: it is raised when the threads have stopped."""

        def call(*words: int) -> int:
            try:
                if self._stopped:
                    return self._nothing.ctypes.data
                return function(*words) or 0
            except Exception as error:
                self._problem = self._problem or f"{type(error).__name__}: {error}"
                return self._nothing.ctypes.data

        return call

    _nothing = np.zeros(16, np.uint32)

    def _of_thread(self, function):
        return self._kept(lambda *words: function(self._running, *words))

    def until(self, is_so: Callable[[], bool], polls: bool = False) -> None:
        """Let the others go on until it is so. Who polls gets nowhere by that."""
        thread, self._moved = self._running, self._moved or not polls
        while not is_so():
            self._blocked[thread] = True
            self._pause()
        self._blocked[thread], self._moved = False, self._moved or not polls

    def together(self, words: tuple) -> Meeting:
        """Wait until all lanes of the warp have brought their words; they go on in one turn."""
        warp = self._running // 32
        if (warp + 1) * 32 > self.count:
            raise Problem(f"a block of {self.count} threads has no whole warp {warp}")
        meeting = self._meetings.setdefault(warp, Meeting())
        meeting.words[self._running] = words
        if len(meeting.words) == 32:
            meeting.turn = self.turn
            del self._meetings[warp]
            if len({len(each) for each in meeting.words.values()}) > 1:
                raise Problem("lanes of a warp do different things")
        thread, self._moved = self._running, True
        while meeting.turn is None or meeting.turn == self.turn:  # as ``until``, but often
            self._blocked[thread] = True
            self._pause()
        self._blocked[thread], self._moved = False, True
        return meeting

    def meet(self, words: tuple[int, ...]) -> tuple[int, list[tuple[int, ...]]]:
        """The same; gives the words of each lane, and the thread that asks."""
        thread = self._running
        meeting = self.together(words)
        if meeting.result is None:
            meeting.result = [words for _, words in sorted(meeting.words.items())]
        return thread, meeting.result

    def _wait(self) -> None:
        self._at_barrier[self._running] = True
        self._pause()

    def _shuffle(self, value: int, offset: int, width: int, mode: int) -> int:
        thread, turn = self._running, self.turn
        self._slots[thread][turn % 2] = turn, value  # two: others may read while some go on
        self._pause()
        base, lane = thread - thread % 32, thread % 32
        source = {0: lane ^ offset, 1: lane + offset, 2: lane - offset, 3: offset}[mode]
        self._is_valid[thread] = 0 <= source < min(width, len(self._slots) - base)
        if not self._is_valid[thread]:
            return value
        found = base + source
        when, answer = self._slots[found][turn % 2]
        if when != turn:
            self._problem = f"thread {thread} asks thread {found}, which does not answer"
        return answer

    def _valid(self) -> int:
        return int(self._is_valid[self._running])
