"""What a program should give: in float64, and by the reference lowering."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcflow import mlir
from mlcflow.check.agreement import Worst, worst_element
from mlcflow.check.apart import Tell, run_apart
from mlcflow.check.isolate import Limits
from mlcflow.check.trusted import Arrays, call, in_float64, load_reference
from mlcflow.check.widen import wide_array
from mlcflow.errors import ExecutionError, LoweringError

FEW = 2
"""How many kinds of inputs a program is run on that takes long: the first ones."""


@dataclass(frozen=True)
class Expected:
    """For each set of inputs that the program accepts, by number in ``kept``: its results.

    ``exact`` in float64, ``reference`` of the reference lowering, ``worst`` how they differ.
    """

    kept: tuple[int, ...]
    exact: tuple[Arrays, ...]
    reference: tuple[Arrays, ...]
    worst: list[list[Worst]]


def expect(
    text: str,
    parameters: Mapping[str, Any],
    sets: list[Arrays],
    limits: Limits,
    *,
    opt_level: int = 1,
    patience: float = float("inf"),
) -> Expected:
    """Run the program in a process apart; if a run takes more than ``patience`` s, on few sets.

    Raises ``LoweringError`` when the reference lowering fails: there is nothing to compare with.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.npz"

        def compute(tell: Tell) -> list:
            run = _Runs(text, parameters, opt_level, patience)
            for number, given in enumerate(sets):
                tell(f"set {number}")
                run.on(number, given)
            np.savez(path, allow_pickle=False, **run.arrays)
            return [run.kept, run.rows]

        outcome = run_apart(compute, limits)
        if outcome.kind != "done":
            raise LoweringError(
                f"the reference lowering {outcome.kind}, so there is nothing to compare with: "
                f"{outcome.message}"
            )
        kept, rows = outcome.value
        with np.load(path, allow_pickle=False) as stored:
            exact, reference = (_stored(stored, name, kept) for name in ("exact", "reference"))
    return Expected(tuple(kept), exact, reference, [[from_row(e) for e in row] for row in rows])


class _Runs:
    """The runs of a program, and what is kept of them."""

    def __init__(
        self, text: str, parameters: Mapping[str, Any], opt_level: int, patience: float
    ) -> None:
        module = mlir.parse(text)
        self.exact = in_float64(module, parameters, opt_level)
        self.narrow = load_reference(mlir.clone(module), parameters, opt_level)
        self.patience, self.slowest = patience, 0.0
        self.kept: list[int] = []
        self.rows: list[list[list]] = []
        self.arrays: dict[str, Any] = {}

    def on(self, number: int, given: Arrays) -> None:
        """Run both on a set, unless its own checks refuse it or enough is known."""
        if len(self.kept) >= FEW and self.slowest > self.patience:
            return
        begin = time.perf_counter()
        try:
            narrow = call(self.narrow, given)
            exact = self.exact(given)
        except ExecutionError:
            return
        self.slowest = max(self.slowest, time.perf_counter() - begin)
        wide = list(map(wide_array, narrow))
        self.kept.append(number)
        self.rows.append([to_row(worst_element(*e)) for e in zip(narrow, exact, wide, strict=True)])
        for name, results in (("exact", exact), ("reference", wide)):
            for position, array in enumerate(results):
                self.arrays[f"{name}.{number}.{position}"] = array


def _stored(stored: Any, name: str, kept: list[int]) -> tuple[Arrays, ...]:
    def of(number: int) -> Arrays:
        start = f"{name}.{number}."
        count = sum(file.startswith(start) for file in stored.files)
        return [stored[f"{start}{position}"] for position in range(count)]

    return tuple(map(of, kept))


def to_row(worst: Worst) -> list:
    """A worst element as data."""
    return [worst.ratio, list(worst.place), worst.actual, worst.exact, worst.skipped]


def from_row(row: list) -> Worst:
    """The worst element of :func:`to_row`."""
    ratio, place, actual, exact, skipped = row
    return Worst(ratio, tuple(place), actual, exact, skipped)
