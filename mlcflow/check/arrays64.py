"""Arrays of a call as the numbers that ``evaluate`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlcflow.check.bounds import Number
from mlcflow.check.conversions import Unsupported, integer_type
from mlcflow.graph.interface import names_of
from mlcflow.mlir import func, ir
from mlcflow.tools.model_file import as_array


def as_stored(value: Any, kind: ir.Type) -> np.ndarray:
    """An array or tensor as numpy has it, integers of the type that ``kind`` says.

    Raises ``Unsupported`` for complex numbers.
    """
    array = as_array(value)
    if array.dtype.kind == "c":
        raise Unsupported("complex numbers have no bounds yet")
    inner = ir.ShapedType(kind).element_type
    if isinstance(inner, ir.FloatType):
        return array
    wanted = np.dtype(integer_type(inner))
    return array if array.dtype == wanted else array.view(wanted)  # uint8 is i8 in MLIR


def arguments(
    main: func.FuncOp,
    parameters: Mapping[str, Any],
    inputs: Sequence[Any],
    prepared: Mapping[str, Number] | None = None,
) -> list[Number]:
    """What an entry point takes: inputs in order, parameters and prepared values by name."""
    rest = iter(inputs)
    found = []
    roles = zip(
        main.type.inputs,
        names_of(main, "input"),
        names_of(main, "parameter"),
        names_of(main, "prepared"),
        strict=True,
    )
    for kind, given, parameter, made in roles:
        if made is not None:
            found.append((prepared or {})[made])
            continue
        value = next(rest) if given is not None else parameters[str(parameter)]
        found.append(Number(as_stored(value, kind)))
    return found


def results_of(main: func.FuncOp, numbers: Sequence[Number], *roles: str) -> list[Number]:
    """The results of an entry point in these roles, integers of the type that the model says."""
    kinds = names_of(main, "dtype", results=True)
    names = [names_of(main, role, results=True) for role in roles]
    chosen = [n for each in names for n, name in enumerate(each) if name is not None]
    return [_typed(numbers[n], kinds[n]) for n in chosen]


def _typed(number: Number, kind: str | None) -> Number:
    return Number(number.value.astype(kind), number.error) if kind else number
