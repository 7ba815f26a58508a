"""Placing buffers in one block of memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A buffer of ``size`` bytes, alive from step number ``first`` to ``last``."""

    size: int
    first: int
    last: int


def place(intervals: list[Interval]) -> tuple[list[int], int]:
    """An offset for each interval, and the bytes needed in all.

    Each in turn at the lowest offset where it meets no buffer that is alive at the same time;
    the largest first, or those first that are alive when most is: what takes less memory
    (greedy by size and by breadth: Pisarchyk and Lee, https://arxiv.org/abs/2001.03288).
    """
    if not intervals:
        return [], 0
    alive = _alive(intervals)
    breadth = [max(alive[each.first : each.last + 1]) for each in intervals]
    numbers = range(len(intervals))
    orders = [
        sorted(numbers, key=lambda i: -intervals[i].size),
        sorted(numbers, key=lambda i: (-breadth[i], -intervals[i].size)),
    ]
    return min((_place(intervals, order) for order in orders), key=lambda found: found[1])


def _place(intervals: list[Interval], order: list[int]) -> tuple[list[int], int]:
    offsets: dict[int, int] = {}
    for index in order:
        interval, offset = intervals[index], 0
        alive = sorted(
            (offsets[other], intervals[other].size)
            for other in offsets
            if intervals[other].first <= interval.last and interval.first <= intervals[other].last
        )
        for start, size in alive:
            if start - offset >= interval.size:
                break
            offset = max(offset, start + size)
        offsets[index] = offset
    total = max(offsets[i] + intervals[i].size for i in offsets)
    return [offsets[i] for i in range(len(intervals))], total


def lower_bound(intervals: list[Interval]) -> int:
    """Bytes that are alive at the same time at most: no plan needs less."""
    return max(_alive(intervals), default=0)


def _alive(intervals: list[Interval]) -> list[int]:
    """Bytes that are alive at each step."""
    steps = range(max((each.last for each in intervals), default=-1) + 1)
    return [sum(i.size for i in intervals if i.first <= step <= i.last) for step in steps]
