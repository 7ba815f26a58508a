"""The numerical certificate of an executable: how far it is from float64, and how far it may be."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcflow.check.bounds import LAMBDA, WORST, Arithmetic, Number
from mlcflow.check.conversions import Unsupported
from mlcflow.check.float64 import evaluate
from mlcflow.check.rounding import likely, outputs_in_float64
from mlcflow.check.taps import Tap, taps
from mlcflow.report.table import table
from mlcflow.tools.model_file import as_array

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True)
class Row:
    """One array, or all results of a kernel, compared with float64.

    ``kind`` of the bound: ``worst case`` or ``probabilistic`` (then ``LAMBDA`` is in it).
    ``error`` and ``bound`` are absolute, at the element where their ratio ``of_bound`` is
    largest; ``largest`` is the largest element. ``unbounded`` of the ``elements`` have no
    finite bound: rounding may decide about them. ``calls`` of a kernel. ``note``: why there
    is no bound at all.
    """

    name: str
    kind: str
    elements: int = 0
    error: float = 0.0
    bound: float = 0.0
    of_bound: float = 0.0
    largest: float = 0.0
    unbounded: int = 0
    calls: int = 1
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether every element is within its bound; true of what has no bound."""
        return self.of_bound <= 1


@dataclass(frozen=True)
class Certificate:
    """What was measured on some inputs: ``str()`` is a table, ``to_json()`` data.

    ``outputs``: each against the imported model in float64. ``kernels``: each kernel on what it
    was given, in its place in the graph, against the same kernel in float64.
    """

    outputs: tuple[Row, ...]
    kernels: tuple[Row, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that has a bound is within it."""
        return all(row.holds for row in (*self.outputs, *self.kernels))

    def __str__(self) -> str:
        heads = ("", "elements", "error", "bound", "error/bound", "largest", "no bound", "kind")
        parts = []
        for title, rows in (("output", self.outputs), ("kernel", self.kernels)):
            if rows:
                parts.append(table((title, *heads[1:]), [_cells(row) for row in rows]))
        verdict = "within its bounds" if self.holds else "NOT within its bounds"
        return "\n\n".join([*parts, verdict])

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self) | {"holds": self.holds}

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(self.as_data(), indent=2)


def _cells(row: Row) -> tuple[str, ...]:
    if row.note:
        return (row.name, str(row.elements or ""), "", "", "", "", "", row.note)
    numbers = [f"{value:.3g}" for value in (row.error, row.bound, row.of_bound, row.largest)]
    unbounded = str(row.unbounded) if row.unbounded else ""
    return (row.name, str(row.elements), *numbers, unbounded, row.kind)


def certificate(executable: Executable, args: tuple, kwargs: Mapping[str, Any]) -> Certificate:
    """Compare an executable with float64 on these inputs; see :class:`Certificate`.

    Compiles the model once more, with what each kernel gives among its results. Changes neither
    the inputs nor the model. Raises ``ExecutionError`` for inputs that do not fit.
    """
    outputs = _outputs(executable, args, dict(kwargs))
    inputs = copy.deepcopy(executable.imported.flatten(args, dict(kwargs)))
    return Certificate(tuple(outputs), tuple(_kernels(executable, inputs)))


def _outputs(executable: Executable, args: tuple, kwargs: dict[str, Any]) -> list[Row]:
    flat = copy.copy(executable)
    flat._unflatten = lambda results: results  # as many as there are outputs, in their order
    given = copy.deepcopy((args, kwargs))
    before = {name: copy.deepcopy(executable.parameters[name])
              for name in executable.mutated_parameters}  # fmt: skip
    inputs = copy.deepcopy(executable.imported.flatten(args, kwargs))
    how = likely(executable.pipeline)
    exact, why = outputs_in_float64(executable.imported, inputs, how)
    actual = [as_array(value) for value in flat(*given[0], **given[1])]
    for name, value in before.items():
        executable.parameters[name][...] = value
    names = [f"output '{port.name}'" for port in executable.outputs]
    if why:
        return [Row(name, "", got.size, note=why) for name, got in zip(names, actual, strict=True)]
    triples = zip(names, actual, exact, strict=True)
    return [judge(name, got, number, how) for name, got, number in triples]


def judge(name: str, actual: np.ndarray, exact: Number, how: Arithmetic) -> Row:
    """Compare the elements of ``actual`` with exact ones and their bounds."""
    got, want = actual.astype(np.float64), exact.value.astype(np.float64)
    bound = exact.errors * (LAMBDA if how.squares else 1)
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        error = np.where(same, 0.0, np.abs(got - want))
        error = np.where(np.isnan(error), np.inf, error)
        part = np.where(error == 0, 0.0, np.where(np.isinf(bound), 0.0, error / bound))
    if not got.size:
        return Row(name, how.name)
    worst = np.unravel_index(int(np.argmax(part)), part.shape)
    if part[worst] == 0:  # nothing is wrong anywhere: the widest bound tells most
        worst = np.unravel_index(int(np.argmax(np.where(np.isinf(bound), -1, bound))), part.shape)
    finite = np.abs(want[np.isfinite(want)])
    return Row(
        name=name,
        kind=how.name,
        elements=int(got.size),
        error=float(error[worst]),
        bound=float(bound[worst]),
        of_bound=float(part[worst]),
        largest=float(finite.max()) if finite.size else 0.0,
        unbounded=int(np.isinf(bound).sum()),
    )


def _kernels(executable: Executable, inputs: Sequence[Any]) -> list[Row]:
    """A row a kernel, the worst of its calls."""
    rows: dict[str, Row] = {}
    try:
        found = list(taps(executable, inputs))
    except Unsupported as error:
        return [Row("all", "", note=str(error))]
    for tap in found:
        before = rows.get(tap.kernel)
        worst = max(_results(tap), key=lambda row: row.of_bound)
        if before is not None and before.of_bound > worst.of_bound:
            worst = before
        rows[tap.kernel] = replace(worst, calls=1 + (before.calls if before else 0))
    return list(rows.values())


def _results(tap: Tap) -> list[Row]:
    """A row for each result of one call."""
    try:
        exact = evaluate(tap.function, tap.given, WORST)
    except Unsupported as error:
        return [Row(tap.kernel, "", note=str(error))]
    pairs = zip(tap.results, exact, strict=True)
    return [judge(tap.kernel, as_array(got), number, WORST) for got, number in pairs]
