"""From a module back to a tensor function in Python."""

from __future__ import annotations

import ast
import textwrap

from mlcflow import mlir
from mlcflow.errors import ImportModelError, LoweringError, MlcflowError, unknown_name
from mlcflow.frontends.tensor_program.function import TensorFunction, from_python
from mlcflow.frontends.tensor_program.print_operations import HANDLERS
from mlcflow.frontends.tensor_program.print_values import View, plain
from mlcflow.frontends.tensor_program.printer import Printer
from mlcflow.mlir import func, ir
from mlcflow.passes import Pass

_HEADER = """import mlcflow
from mlcflow import language as T


@mlcflow.tensor_function
"""


def to_python(module: ir.Module | TensorFunction, *, function: str = "main") -> str:
    """The function of a module, linalg on tensors, as the Python text of a tensor function.

    Calls are inlined, named operations become loops, a fill becomes an initial value. The text
    computes the same when ``from_python`` reads it. Raises ``LoweringError`` that lists
    everything that Python loops cannot say, with the source lines that the module knows.
    """
    if isinstance(module, TensorFunction):
        module = module.module
    copy = mlir.clone(module)
    with copy.context, ir.Location.unknown():
        found = _find(copy, function)
        # The inliner drops private functions that nobody calls any more.
        found.attributes["sym_visibility"] = ir.StringAttr.get("public")
        for step in (Pass("inline"), Pass("linalg-generalize-named-ops", on="func.func")):
            step(copy)
        printer = Printer()
        text = _print(printer, _find(copy, function))
    if not printer.problems:
        try:
            from_python(text)
        except ImportModelError as error:
            printer.problems.append(f"what the loops would be is not valid: {error}")
    if printer.problems:
        listed = "\n  ".join(dict.fromkeys(printer.problems))
        raise LoweringError(f"'{function}' cannot be written as a tensor function:\n  {listed}")
    return text


def _find(module: ir.Module, name: str) -> func.FuncOp:
    functions = {op.name.value: op for op in module.body.operations if isinstance(op, func.FuncOp)}
    if name not in functions or functions[name].is_external:
        raise MlcflowError(unknown_name("function", name, functions))
    return functions[name]


def _print(printer: Printer, function: func.FuncOp) -> str:
    arguments = _arguments(printer, function)
    printer.read_outputs(function)
    for op in function.entry_block.operations:
        handler = HANDLERS.get(op.operation.name)
        if handler is None:
            printer.problem(op, op.operation.name)
        else:
            handler(printer, op)
    name = function.name.value if function.name.value.isidentifier() else "main"
    signature = f"def {name}({', '.join(arguments)}):"
    if len(signature) > 96:
        signature = f"def {name}(\n" + "".join(f"    {a},\n" for a in arguments) + "):"
    nodes = [ast.fix_missing_locations(node) for node in printer.statements]
    body = "\n".join(ast.unparse(node) for node in nodes)
    text = _HEADER + signature + "\n" + textwrap.indent(body, "    ") + "\n"
    return text.replace("'", '"')  # the only texts in it are names of types and sizes


def _arguments(printer: Printer, function: func.FuncOp) -> list[str]:
    """Declare the arguments; gives each as the text of the signature."""
    given = function.attributes.get("arg_attrs", [])
    attributes = [ir.DictAttr(a) for a in given]
    texts = []
    for number, value in enumerate(function.arguments):
        entries = attributes[number] if attributes else {}
        named = [r for r in ("input", "parameter", "prepared") if f"mlcflow.{r}" in entries]
        label = ir.StringAttr(entries[f"mlcflow.{named[0]}"]).value if named else f"arg{number}"
        name = printer.fresh_name(label)
        if not isinstance(value.type, ir.RankedTensorType) or "mlcflow.dtype" in entries:
            printer.problems.append(f"argument '{label}' of type {value.type}")
            continue
        dims = []
        if "mlcflow.dims" in entries:
            dims = [ir.StringAttr(a).value for a in ir.ArrayAttr(entries["mlcflow.dims"])]
        shape = printer.argument_shape(name, value.type, dims)
        printer.values[value] = View(shape, name, plain)
        texts.append(f"{name}: T.Tensor({shape!r}, {printer.dtype(value.type)!r})")
    return texts
