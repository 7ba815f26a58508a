"""Putting another program in the place of a kernel."""

from __future__ import annotations

from mlcflow import mlir
from mlcflow.errors import LoweringError, MlcflowError, unknown_name
from mlcflow.frontends.tensor_program.function import TensorFunction
from mlcflow.graph.outline import kernels, use_destinations
from mlcflow.mlir import func, ir


def replace_kernel(module: ir.Module, kernel: str, program: TensorFunction | ir.Module) -> None:
    """Let ``kernel`` of ``module`` compute what ``program`` computes.

    ``module`` is as after the stage ``kernels``. ``program`` is a tensor function, or a module
    whose ``@main`` is linalg on tensors; it takes the arguments of the kernel, in order and
    without the destinations, and gives its results. Whether it computes the same is for the
    caller to know. Raises ``MlcflowError`` for an unknown kernel, ``LoweringError`` for types
    that differ.
    """
    known = {function.name.value: function for function in kernels(module)}
    if kernel not in known:
        raise MlcflowError(unknown_name("kernel", kernel, known))
    old = known[kernel]
    name = program.name if isinstance(program, TensorFunction) else "main"
    source = program.module if isinstance(program, TensorFunction) else program
    # Operations cannot move between contexts, and do not keep their module alive.
    parsed = mlir.parse(mlir.asm(source, locations=True), module.context)
    new = _main(parsed)
    _check_types(old, new, name)
    with module.context, old.location:
        # Destinations come last; the body writes into them once they are there.
        for result in old.type.results:
            new.entry_block.add_argument(result, old.location)
        new.attributes["function_type"] = ir.TypeAttr.get(old.type)
        for key in ("arg_attrs", "res_attrs"):
            if key in new.attributes:
                del new.attributes[key]
        copy = new.operation.clone(ip=ir.InsertionPoint(old))
        copy.attributes["sym_name"] = ir.StringAttr.get(kernel)
        copy.attributes["sym_visibility"] = ir.StringAttr.get("private")
        copy.attributes["mlcflow.kernel"] = ir.UnitAttr.get()
        old.operation.erase()
        use_destinations(module)


def _main(module: ir.Module) -> func.FuncOp:
    functions = [op for op in module.body.operations if isinstance(op, func.FuncOp)]
    if [function.name.value for function in functions] != ["main"]:
        names = ", ".join(function.name.value for function in functions) or "none"
        raise LoweringError(f"expected one function, 'main', in the program; found {names}")
    return functions[0]


def _check_types(old: func.FuncOp, new: func.FuncOp, name: str) -> None:
    results = list(old.type.results)
    inputs = list(old.type.inputs)[: len(old.type.inputs) - len(results)]
    expected, found = (inputs, results), (list(new.type.inputs), list(new.type.results))
    if expected != found:
        raise LoweringError(
            f"kernel '{old.name.value}' is {_signature(*expected)}, "
            f"but '{name}' is {_signature(*found)}"
        )


def _signature(inputs: list[ir.Type], results: list[ir.Type]) -> str:
    return f"({', '.join(map(str, inputs))}) -> ({', '.join(map(str, results))})"
