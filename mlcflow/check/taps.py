"""What each kernel of a model is given and gives: its results among those of the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcflow.check.arrays64 import arguments, as_stored
from mlcflow.check.bounds import WORST, Number
from mlcflow.check.float64 import evaluate, functions, spell_out
from mlcflow.frontends import Imported
from mlcflow.graph.interface import add_result, names_of
from mlcflow.graph.outline import kernels
from mlcflow.mlir import clone, func, ir

if TYPE_CHECKING:
    from mlcflow.pipeline import StageRecord
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True)
class Tap:
    """One call of a kernel: the kernel in float64 form, what it was given, what it gave."""

    kernel: str
    module: ir.Module  # which the function lives in
    function: func.FuncOp
    given: list[Number]
    results: list[np.ndarray]


def cut_stage(executable: Executable) -> StageRecord | None:
    """The stage that cut the graph into kernels; ``None`` if the pipeline has none."""
    return next((r for r in executable.stages.records if kernels(r.module)), None)


def taps(executable: Executable, arrays: Sequence[np.ndarray]) -> Iterator[Tap]:
    """Every call of a kernel in ``@main``, in order, with what went in and out.

    Compiles the model once more, from the stage that cut the graph, with the results of all
    kernels among those of ``@main``; nothing else about the kernels changes. ``arrays`` are the
    inputs. Raises ``Unsupported`` where the graph between the kernels computes.
    """
    record = cut_stage(executable)
    if record is None:
        return
    tapped = _load(executable, record)
    found = tapped(*copy.deepcopy(list(arrays)))  # it may write into them
    results = list(found) if isinstance(found, tuple) else [found]
    module = spell_out(record.module)
    known = functions(module)
    main = known["main"]
    rest = iter(results[len(tapped.outputs) - _count(main, known) :])
    values = arguments(main, executable.parameters, arrays, _prepared(executable, known))
    seen: list[Tap] = []

    def call(op: func.CallOp, given: list[Number]) -> list[Number]:
        kernel = op.callee.value
        function = known[kernel]
        if "mlcflow.kernel" not in function.attributes:
            return evaluate(function, given)
        gave = [next(rest) for _ in op.results]
        seen.append(Tap(kernel, module, function, given, gave))
        kinds = [result.type for result in op.results]
        return [Number(as_stored(x, kind)) for x, kind in zip(gave, kinds, strict=True)]

    evaluate(main, values, call=call)
    yield from seen


def _prepared(executable: Executable, known: Mapping[str, func.FuncOp]) -> dict[str, Number]:
    """What ``@prepare`` makes, with bounds: later stages may keep it in another form."""
    if "prepare" not in known:
        return {}
    prepare = known["prepare"]
    results = evaluate(prepare, arguments(prepare, executable.parameters, ()), WORST)
    names = names_of(prepare, "prepared", results=True)
    return {str(name): number for name, number in zip(names, results, strict=True)}


def _count(main: func.FuncOp, known: Mapping[str, func.FuncOp]) -> int:
    return sum(len(op.results) for op in _calls(main, known))


def _calls(main: func.FuncOp, known: Mapping[str, func.FuncOp]) -> list[Any]:
    return [
        op
        for op in main.entry_block.operations
        if isinstance(op, func.CallOp) and "mlcflow.kernel" in known[op.callee.value].attributes
    ]


def _load(executable: Executable, record: StageRecord) -> Executable:
    """The model with the results of its kernels after its own."""
    from mlcflow.compiler import load

    names = [each.name for each in executable.stages.records]
    module = clone(record.module)
    with module.context, ir.Location.unknown():
        known = functions(module)
        for number, op in enumerate(_calls(known["main"], known)):
            for place, value in enumerate(op.results):
                add_result(known["main"], value, "output", f"kernel {number}.{place}")
    after = names[names.index(record.name) + 1]
    parameters = dict(executable.parameters)
    for name in executable.mutated_parameters:
        parameters[name] = copy.deepcopy(parameters[name])
    imported = Imported(module, parameters)
    return load(imported, executable.pipeline, start=after)
