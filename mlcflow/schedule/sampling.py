"""Undecided choices: a schedule rule with choices is a space of programs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlcflow.errors import ScheduleError
from mlcflow.graph.kernel import Kernel, find_kernels, read_kernel
from mlcflow.mlir import func, ir, transform, tune_transform
from mlcflow.schedule.interpret import Handle
from mlcflow.schedule.labels import Loop
from mlcflow.schedule.program import isolate
from mlcflow.schedule.trace import plain
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.schedule.schedule import Schedule

Choose = Callable[[str, int], int]
"""``choose(name, count)`` picks one of ``count`` options, by number."""

_choose: ContextVar[Choose | None] = ContextVar("choose", default=None)


@contextlib.contextmanager
def choosing(choose: Choose) -> Iterator[None]:
    """Let schedules made inside decide their samples by ``choose``."""
    token = _choose.set(choose)
    try:
        yield
    finally:
        _choose.reset(token)


def sample_perfect_tile(
    schedule: Schedule, arguments: dict[str, Any], decision: Sequence[int] | None
) -> list[int]:
    """See :meth:`Schedule.sample_perfect_tile`."""
    given = None if decision is None else list(decision)
    return _sample(schedule, "sample_perfect_tile", arguments, perfect_tiles(**arguments), given)


def sample_categorical(schedule: Schedule, options: list, decision: Any) -> Any:
    """See :meth:`Schedule.sample_categorical`."""
    if not options:
        raise ScheduleError("sample_categorical: expected at least one option, got none")
    options = plain(options)
    arguments = {"options": options}
    return _sample(schedule, "sample_categorical", arguments, options, plain(decision))


def _sample(
    schedule: Schedule, primitive: str, arguments: dict[str, Any], options: list, given: Any
) -> Any:
    """Decide between ``options`` and note the decision, in MLIR as ``transform.tune.knob``."""
    if given is not None and given not in options:
        raise ScheduleError(f"{primitive}: decision {given!r} is not among {options}")
    name = f"{primitive}{sum(step.decision is not None for step in schedule.trace)}"
    if given is None:
        choose = _choose.get() or _first_random
        given = options[choose(name, len(options))]
    step = schedule.record(primitive, arguments, given)

    def build(root: Handle) -> None:
        choices = [ir.Attribute.parse(_attribute(option)) for option in options]
        selected = choices[options.index(given)]
        tune_transform.KnobOp(
            transform.AnyParamType.get(), name, ir.ArrayAttr.get(choices), selected=selected
        )

    step.builds.append(build)
    return given


def _first_random(name: str, count: int) -> int:
    """What is decided outside of a search space: random, and the same in every process."""
    return random.Random(name).randrange(count)  # noqa: S311 (not a secret)


def _attribute(option: Any) -> str:
    if isinstance(option, list):
        return "[" + ", ".join(map(_attribute, option)) + "]"
    if isinstance(option, bool):
        return "true" if option else "false"
    return f'"{option}"' if isinstance(option, str) else f"{option} : i64"


def perfect_tiles(loop: Loop, n: int, innermost: int) -> list[list[int]]:
    """All ways to write the extent of ``loop`` as ``n`` factors, the last up to ``innermost``."""
    if loop.extent < 1:
        raise ScheduleError(f"sample_perfect_tile: the extent of {loop} is not known")
    if n < 1:
        raise ScheduleError(f"sample_perfect_tile: expected at least 1 factor, got {n}")
    found = [t for t in _factorings(loop.extent, n) if t[-1] <= innermost]
    if not found:
        raise ScheduleError(
            f"sample_perfect_tile: no {n} factors of {loop.extent} end in {innermost} or less"
        )
    return found


def _factorings(extent: int, n: int) -> list[list[int]]:
    if n == 1:
        return [[extent]]
    return [
        [first, *rest]
        for first in range(1, extent + 1)
        if extent % first == 0
        for rest in _factorings(extent // first, n - 1)
    ]


@dataclass(frozen=True)
class Program:
    """One program of a search space: its module, the schedule that made it, the decisions."""

    module: ir.Module
    schedule: Schedule
    decisions: tuple[int, ...]


@dataclass
class _Decisions:
    """Decides as ``prefix`` says, then by ``rest``; notes the decisions and their options."""

    prefix: Sequence[int] = ()
    rest: Callable[[int], int] = lambda count: 0
    taken: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def __call__(self, name: str, count: int) -> int:
        position = len(self.taken)
        number = self.prefix[position] if position < len(self.prefix) else self.rest(count)
        self.taken.append(number)
        self.counts.append(count)
        return number


@dataclass(frozen=True)
class SearchSpace:
    """The programs that a rule makes of a kernel, one for each way to decide its samples."""

    rule: Callable[[Kernel, Target], Schedule | None]
    kernel: Kernel
    target: Target

    def sample(self, seed: int) -> Program:
        """A program with random decisions. Raises ``ScheduleError`` if they do not fit."""
        return self._program(_Decisions(rest=random.Random(seed).randrange))  # noqa: S311

    def __iter__(self) -> Iterator[Program]:
        """Every program, in order of decisions; those whose decisions do not fit are left out."""
        prefix: list[int] | None = []
        while prefix is not None:
            decisions = _Decisions(prefix)
            with contextlib.suppress(ScheduleError):  # the next decision may fit
                yield self._program(decisions)
            prefix = _next(decisions)

    def _program(self, decisions: _Decisions) -> Program:
        module = isolate(self.kernel)
        kernel = _kernel_of(module, self.kernel.name)
        with choosing(decisions), module.context, ir.Location.unknown():
            schedule = self.rule(kernel, self.target)
        if schedule is None:
            raise ScheduleError(f"the rule does not apply to kernel '{self.kernel.name}'")
        return Program(module, schedule, tuple(decisions.taken))


def _next(decisions: _Decisions) -> list[int] | None:
    """The decisions that come after these: the last that has an option left takes it."""
    taken = list(decisions.taken)
    while taken:
        if taken[-1] + 1 < decisions.counts[len(taken) - 1]:
            return [*taken[:-1], taken[-1] + 1]
        taken.pop()
    return None


def _kernel_of(module: ir.Module, name: str) -> Kernel:
    named = {kernel.name: kernel for kernel in find_kernels(module)}
    if name in named:
        return named[name]
    function = next(op for op in module.body.operations if isinstance(op, func.FuncOp))
    kernel = read_kernel(function)
    assert kernel is not None
    return kernel


def search_space(
    rule: Callable[[Kernel, Target], Schedule | None],
    kernel: Kernel,
    target: Target | None = None,
) -> SearchSpace:
    """The space of programs that ``rule`` makes of ``kernel``, on the host by default."""
    return SearchSpace(rule, kernel, target or Target.host())
