"""A program with a failure made smaller, as long as the failure stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mlcflow import mlir
from mlcflow.check.extract import (
    drop_result,
    extract,
    main_of,
    operations,
    resize,
    scalar_steps,
    sizes,
    without_scalar_step,
)
from mlcflow.errors import MlcflowError
from mlcflow.mlir import ir
from mlcflow.passes import Pass

SMALLER = (1, 2, 3, 5, 8, 16, 17, 32, 33, 64, 65)
"""Sizes that are tried: powers of two, which tiles divide, and one more, which they do not."""

Fails = Callable[[str], bool]
"""Whether the program of this text fails in the same way."""


@dataclass
class _Reduction:
    """The smallest text known to fail, and until when to look for a smaller one."""

    text: str
    fails: Fails
    end: float
    tried: int = 0

    def accepts(self, change: Callable[[ir.Module], ir.Module | None]) -> bool:
        """Take the changed program if it is another and fails as well."""
        if time.monotonic() > self.end:
            return False
        module = mlir.parse(self.text)
        try:
            module = change(module) or module
            if not module.operation.verify():
                return False
        except (ir.MLIRError, MlcflowError, ValueError, IndexError):
            return False  # this change makes no valid program
        text = mlir.asm(module, locations=True)
        if text == self.text:
            return False
        self.tried += 1
        if self.fails(text):
            self.text = text
            return True
        return False


def reduce_program(text: str, fails: Fails, seconds: float) -> tuple[str, int]:
    """The smallest program found in that time that still fails, and how many were tried.

    First whole operations go, then scalar operations inside them, then sizes shrink.
    """
    state = _Reduction(text, fails, time.monotonic() + seconds)
    _keep_few(state)
    _drop_results(state)
    _tidy(state)
    _simplify_scalars(state)
    _shrink(state)
    _keep_few(state)  # what was needed for its shape only
    _tidy(state)
    return state.text, state.tried


def _keep_few(state: _Reduction) -> None:
    """Delta debugging (Zeller and Hildebrandt, 2002) over the operations of ``@main``."""
    parts = 2
    while (count := len(operations(mlir.parse(state.text)))) > 1:
        chunks = _split(count, min(parts, count))
        rests = [[n for n in range(count) if n not in chunk] for chunk in chunks]
        # A half is the same as the rest of the other.
        if any(state.accepts(_keeping(chunk)) for chunk in chunks):
            parts = 2
        elif parts > 2 and any(state.accepts(_keeping(rest)) for rest in rests):
            parts = max(2, parts - 1)
        elif parts < count and time.monotonic() < state.end:
            parts *= 2
        else:
            return


def _drop_results(state: _Reduction) -> None:
    count = len(main_of(mlir.parse(state.text)).type.results)
    for number in reversed(range(count)):
        if count > 1 and state.accepts(partial(drop_result, number=number)):
            count -= 1


def _split(count: int, parts: int) -> list[list[int]]:
    bounds = [count * part // parts for part in range(parts + 1)]
    return [list(range(bounds[n], bounds[n + 1])) for n in range(parts)]


def _keeping(numbers: Sequence[int]) -> Callable[[ir.Module], ir.Module]:
    return lambda module: extract(module, numbers)


def _tidy(state: _Reduction) -> None:
    # The second drops operands that nobody reads.
    for names in (("canonicalize", "cse"), ("linalg-fuse-elementwise-ops", "canonicalize")):
        state.accepts(partial(_clean, names=names))


def _clean(module: ir.Module, names: Sequence[str]) -> ir.Module:
    with module.context:
        for name in names:
            Pass(name)(module)
    return extract(module, range(len(operations(module))))


def _simplify_scalars(state: _Reduction) -> None:
    """Each accepted change renumbers what is left, so the list is made anew."""
    number = 0
    while number < len(steps := list(scalar_steps(mlir.parse(state.text)))):
        place, operand = steps[number]
        if not state.accepts(partial(without_scalar_step, number=place, operand=operand)):
            number += 1
        if time.monotonic() > state.end:
            return


def _shrink(state: _Reduction) -> None:
    done: set[int] = set()
    while left := [size for size in sizes(mlir.parse(state.text)) if size not in done]:
        size = left[0]
        smaller = [each for each in SMALLER if each < size]
        if not any(state.accepts(partial(resize, change={size: to})) for to in smaller):
            done.add(size)
        if time.monotonic() > state.end:
            return


def readable(text: str, *, roles: bool = True) -> str:
    """The program without what the compiler adds; with ``roles``, parameters remain known."""
    module = mlir.parse(text)
    main = main_of(module)
    with module.context:
        if "arg_attrs" in main.attributes:
            entries = list(map(ir.DictAttr, ir.ArrayAttr(main.attributes["arg_attrs"])))
            main.attributes["arg_attrs"] = ir.ArrayAttr.get([_roles(e, roles) for e in entries])
        if "res_attrs" in main.attributes:
            del main.attributes["res_attrs"]
    # Maps where they are used, not in lines of their own.
    return str(module.operation.get_asm(use_local_scope=True))


def _roles(entry: ir.DictAttr, roles: bool) -> ir.DictAttr:
    kept = ("mlcflow.dtype", "mlcflow.parameter") if roles else ("mlcflow.dtype",)
    return ir.DictAttr.get({item.name: item.attr for item in entry if item.name in kept})
