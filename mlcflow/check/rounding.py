"""How far two right answers of a model may be apart: the tolerance of verification."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np

from mlcflow.check.arrays64 import arguments, results_of
from mlcflow.check.bounds import DOUBLE, LAMBDA, LIKELY, ROUNDOFF, Arithmetic, Number
from mlcflow.check.conversions import Unsupported
from mlcflow.check.float64 import evaluate, functions, spell_out
from mlcflow.frontends import Imported
from mlcflow.graph.interface import normalize_interface
from mlcflow.graph.kernel import loop_extents
from mlcflow.graph.linalg_ops import is_generic, iterators, payload
from mlcflow.mlir import clone, ir, walk
from mlcflow.pipeline import Pipeline, step_name

log = logging.getLogger("mlcflow")

AFFORDABLE = 1.0
"""Seconds that the bound of every element may take, about, when a model is compiled."""
TILES = "winograd"
"""The step of a pipeline that computes 3x3 convolutions by tiles."""
MULTIPLY_ADD, OPERATION = 1.5e-10, 1e-7
"""Seconds of an iteration of a contraction in float64 with bounds, and of any other generic."""


def outputs_in_float64(
    imported: Imported, inputs: list[Any], how: Arithmetic
) -> tuple[list[Number], str]:
    """The outputs of the imported model for ``inputs``; if there are none, why."""
    try:
        module = _normal(imported)
        main = functions(module)["main"]
        results = evaluate(main, arguments(main, imported.parameters, inputs), how)
    except Unsupported as error:
        return [], str(error)
    return results_of(main, results, "output"), ""


def _normal(imported: Imported) -> ir.Module:
    """A copy of the imported module as :func:`evaluate` reads it."""
    module = clone(imported.original)
    with module.context, ir.Location.unknown():
        normalize_interface(module)
    return spell_out(module)


def likely(pipeline: Pipeline) -> Arithmetic:
    """The probabilistic bound of what ``pipeline`` makes: of tiles, if it computes by tiles."""
    steps = (step_name(step) for stage in pipeline.stages for step in stage.steps)
    return replace(LIKELY, tiles=TILES in steps)


def between(
    imported: Imported,
    args: tuple,
    kwargs: dict[str, Any],
    expected: list[np.ndarray],
    how: Arithmetic = LIKELY,
) -> list[np.ndarray]:
    """For each output, how far two programs that both round may be apart on these inputs.

    Both may be off by the probabilistic bound ``how``, with the widest roundoff of the arguments.
    Where the bound of each element would take long, it is one by norms:
    ``LAMBDA * u * sum(sqrt(n))`` of the largest element of ``expected``, over the lengths ``n``
    of all sums. Empty if nothing is known.
    """
    inputs = imported.flatten(args, kwargs)
    module = _normal(imported)
    main = functions(module)["main"]
    coarsest = max((ROUNDOFF.get(kind, 0.0) for kind in _elements(main.type.inputs)), default=0.0)
    if cost(module) > AFFORDABLE:
        relative = 2 * LAMBDA * (coarsest + DOUBLE) * _roots(module)
        return [np.full(each.shape, relative * _largest(each)) for each in expected]
    numbers, why = outputs_in_float64(imported, inputs, replace(how, least=coarsest))
    if why:
        log.info("verification by tolerances: %s", why)
    return [2 * LAMBDA * number.errors for number in numbers]


def _roots(module: ir.Module) -> float:
    """The sum of the roots of the numbers of terms, over all operations that compute."""
    total = 0.0
    for op in walk(module.operation):
        if is_generic(op) and payload(op):
            pairs = zip(loop_extents(op), iterators(op), strict=True)
            total += math.sqrt(math.prod(n for n, kind in pairs if kind == "reduction" and n > 0))
    return total


def _largest(array: np.ndarray) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def _elements(kinds: Any) -> set[str]:
    return {str(ir.ShapedType(kind).element_type) for kind in kinds}


def cost(module: ir.Module) -> float:
    """About how many seconds it takes to evaluate a module with bounds."""
    total = 0.0
    for op in walk(module.operation):
        if is_generic(op):
            steps = math.prod(max(1, extent) for extent in loop_extents(op))
            product = len(op.operation.operands) == 3 and "reduction" in iterators(op)
            total += steps * (MULTIPLY_ADD if product else OPERATION)
    return total
