"""Ways to run the module of any stage that are trusted: the reference lowering, and float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from mlcflow import mlir
from mlcflow.check.arrays64 import arguments, results_of
from mlcflow.check.conversions import Unsupported
from mlcflow.check.float64 import evaluate, functions, spell_out
from mlcflow.check.separate import separate_loops
from mlcflow.check.widen import wide_array, widen
from mlcflow.frontends import Imported
from mlcflow.lowered import check_lowered
from mlcflow.mlir import ir
from mlcflow.pipeline import Stage, Stages
from mlcflow.runtime.executable import Executable

Arrays = list[np.ndarray]


def load_reference(module: ir.Module, parameters: Mapping[str, Any], opt_level: int) -> Executable:
    """The module of any stage, by the reference lowering; equal loop nests are compiled once."""
    from mlcflow.compiler import build_pipeline

    pipeline = build_pipeline("reference", options={"opt_level": opt_level})
    apart = Stage("separate", separate_loops)
    stages = [(each, apart) if each.name == "bufferize" else (each,) for each in pipeline.stages]
    pipeline = replace(pipeline, stages=tuple(chain.from_iterable(stages)))
    imported = Imported(module, dict(parameters))
    pipeline.run(module, keep=False)
    check_lowered(module, imported)
    return Executable(module, imported, Stages(()), pipeline, 1)


def call(executable: Executable, arrays: Arrays) -> Arrays:
    """The results, then what the parameters have become that the model overwrites."""
    copies = [np.array(array) for array in arrays]
    kept = {name: np.array(executable.parameters[name]) for name in executable.mutated_parameters}
    results = executable(*copies)
    found = list(results) if isinstance(results, tuple) else [results]
    for name, before in kept.items():
        found.append(np.array(executable.parameters[name]))
        np.copyto(np.asarray(executable.parameters[name]), before)
    return found


def in_float64(
    module: ir.Module, parameters: Mapping[str, Any], opt_level: int
) -> Callable[[Arrays], Arrays]:
    """The function that the module computes, with a result as :func:`call` has it, in float64.

    Where an operation has no rule in float64, and from then on, the reference lowering of the
    module with all types widened takes the place of whole arrays of numpy.
    """
    spelled = spell_out(module)
    lowered: list[Executable] = []

    def run(arrays: Arrays) -> Arrays:
        if not lowered:
            try:
                main = functions(spelled)["main"]
                with np.errstate(all="ignore"):
                    numbers = evaluate(main, arguments(main, parameters, arrays))
                found = results_of(main, numbers, "output", "mutates")
                return [wide_array(number.value) for number in found]
            except Unsupported:
                wide = mlir.clone(module)
                widen(wide)
                big = {name: wide_array(value) for name, value in parameters.items()}
                lowered.append(load_reference(wide, big, opt_level))
        return call(lowered[0], list(map(wide_array, arrays)))

    return run
