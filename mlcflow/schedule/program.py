"""One kernel as a program of its own: compiled, run and timed apart from its model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from mlcflow.errors import ScheduleError
from mlcflow.frontends import Imported
from mlcflow.graph.kernel import Kernel
from mlcflow.graph.library_calls import declare_called
from mlcflow.graph.linalg_ops import payload
from mlcflow.mlir import clone, func, ir, tensor
from mlcflow.runtime.executable import Executable
from mlcflow.target import Target


def isolate(kernel: Kernel) -> ir.Module:
    """A module with a copy of the kernel and a ``@main`` that calls it on a fresh destination.

    A ``@main`` that is itself the kernel is copied as it is. Raises ``ScheduleError`` for
    shapes that are not known.
    """
    function = kernel.function
    with function.context, ir.Location.unknown():
        module = ir.Module.create()
        copy = function.operation.clone()
        module.body.append(copy)
        if "mlcflow.kernel" not in function.attributes:
            declare_called(module)
            return module
        arguments, results = list(function.type.inputs), list(function.type.results)
        count = len(arguments) - len(results)
        with ir.InsertionPoint.at_block_begin(module.body):
            main = func.FuncOp("main", (arguments[:count], results))
        with ir.InsertionPoint(main.add_entry_block()):
            places = [_destination(kind) for kind in arguments[count:]]
            call = func.CallOp(results, function.name.value, [*main.arguments, *places])
            func.ReturnOp(list(call.results))
        declare_called(module)
        return module


def _destination(kind: ir.Type) -> ir.Value:
    shaped = ir.RankedTensorType(kind)
    if not shaped.has_static_shape:
        raise ScheduleError(f"a kernel runs alone only with known shapes, found {kind}")
    return tensor.empty(list(shaped.shape), shaped.element_type)


def load_program(module: ir.Module, target: Target | None = None) -> Executable:
    """Compile an isolated kernel as its schedule left it: no rule is applied any more."""
    from mlcflow.compiler import build_pipeline, load
    from mlcflow.graph.interface import normalize_interface

    program = clone(module)
    with program.context, ir.Location.unknown():
        normalize_interface(program)
    return load(Imported(program), build_pipeline("cpu", target), start="bufferize")


def run_reference(module: ir.Module, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results of the reference lowering."""
    from mlcflow.compiler import build_pipeline, load

    results = load(Imported(clone(module)), build_pipeline("reference"))(*inputs)
    return list(results) if isinstance(results, tuple) else [results]


def random_inputs(executable: Executable, seed: int = 0) -> list[np.ndarray]:
    """Inputs for an executable: normal numbers, small integers, coin flips."""
    random = np.random.default_rng(seed)
    values = []
    for port in executable.inputs:
        kind = port.numpy.kind
        if kind in "iu":
            values.append(random.integers(0, 8, port.shape).astype(port.numpy))
        elif kind == "b":
            values.append(random.integers(0, 2, port.shape).astype(bool))
        else:
            values.append(random.standard_normal(port.shape).astype(port.numpy))
    return values


def measure(executable: Executable, inputs: Sequence[np.ndarray], budget: float = 0.2) -> float:
    """Seconds of one call: the least of as many as fit into ``budget`` seconds, at least 3."""
    executable(*inputs)
    best, end = math.inf, time.perf_counter() + budget
    count = 0
    while count < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        executable(*inputs)
        best = min(best, time.perf_counter() - begin)
        count += 1
    return best


def operations(kernel: Kernel) -> int:
    """Scalar operations of the root: two a step of a contraction, else those of its payload."""
    if not kernel.is_static:
        return 0
    each = 2 if kernel.kind == "contraction" else max(1, len(payload(kernel.root)))
    return math.prod(kernel.loops) * each
