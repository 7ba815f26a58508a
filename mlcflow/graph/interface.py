"""The entry functions of a module: what they take and give."""

from __future__ import annotations

from mlcflow.errors import MlcflowError
from mlcflow.mlir import func, ir, tensor

_ROLES = ("input", "parameter", "prepared", "output", "mutates", "arena", "status", "constant")
INTERFACE = "mlcflow.interface"
ENTRY_POINTS = ("main", "prepare")


def entry_points(module: ir.Module) -> list[func.FuncOp]:
    """``@main`` and, where there is one, ``@prepare``."""
    return [
        op
        for op in module.body.operations
        if isinstance(op, func.FuncOp) and op.name.value in ENTRY_POINTS and not op.is_external
    ]


def normalize_interface(module: ir.Module) -> None:
    """Make every argument and result of the entry points a tensor or memref with a name.

    Scalars become tensors of rank 0. Names that are missing are made up: ``arg0``, ``0``. The
    memory of an argument belongs to the caller: bufferization must not compute in it. A module
    of a late stage, which has recorded its interface, is left as it is. Raises
    ``MlcflowError`` when there is no ``@main``.
    """
    if INTERFACE in module.operation.attributes:
        return
    functions = entry_points(module)
    if not any(function.name.value == "main" for function in functions):
        found = [str(op.name) for op in module.body.operations if isinstance(op, func.FuncOp)]
        raise MlcflowError(
            "expected a function @main with a body, found "
            + (", ".join(found) if found else "no function at all")
        )
    for function in functions:
        _wrap_scalars(function)
        arguments = _named(function, "arg_attrs", len(function.type.inputs), "input", "arg")
        readonly = {"bufferization.writable": ir.BoolAttr.get(False)}
        arguments = ir.ArrayAttr.get(
            [
                ir.DictAttr.get(readonly | {entry.name: entry.attr for entry in argument})
                for argument in map(ir.DictAttr, arguments)
            ]
        )
        results = _named(function, "res_attrs", len(function.type.results), "output", "")
        function.attributes["arg_attrs"] = arguments
        function.attributes["res_attrs"] = results


def _wrap_scalars(function: func.FuncOp) -> None:
    block = function.entry_block
    for argument in block.arguments:
        if not isinstance(argument.type, ir.ShapedType):
            scalar = argument.type
            uses = list(argument.uses)
            argument.set_type(ir.RankedTensorType.get([], scalar))
            if uses:
                with ir.InsertionPoint.at_block_begin(block):
                    value = tensor.extract(argument, [])
                for use in uses:
                    use.owner.operands[use.operand_number] = value
    terminator = block.operations[len(block.operations) - 1]
    for index, operand in enumerate(terminator.operands):
        if not isinstance(operand.type, ir.ShapedType):
            with ir.InsertionPoint(terminator):
                wrapped = tensor.from_elements(ir.RankedTensorType.get([], operand.type), [operand])
            terminator.operands[index] = wrapped
    types = ir.FunctionType.get(
        [argument.type for argument in block.arguments],
        [operand.type for operand in terminator.operands],
    )
    function.attributes["function_type"] = ir.TypeAttr.get(types)


def _named(function: func.FuncOp, key: str, count: int, role: str, prefix: str) -> ir.ArrayAttr:
    """The argument or result attributes of ``function``, each with a role and a name."""
    given = list(ir.ArrayAttr(function.attributes[key])) if key in function.attributes else []
    named = []
    for number in range(count):
        entries = {entry.name: entry.attr for entry in ir.DictAttr(given[number])} if given else {}
        if not any(f"mlcflow.{known}" in entries for known in _ROLES):
            entries[f"mlcflow.{role}"] = ir.StringAttr.get(f"{prefix}{number}")
        named.append(ir.DictAttr.get(entries))
    return ir.ArrayAttr.get(named)


def add_argument(function: func.FuncOp, kind: ir.Type, role: str, name: str) -> ir.Value:
    """Append an argument of ``role`` to an entry point."""
    argument = function.entry_block.add_argument(kind, function.location)
    attributes = list(ir.ArrayAttr(function.attributes["arg_attrs"]))
    attributes.append(ir.DictAttr.get({f"mlcflow.{role}": ir.StringAttr.get(name)}))
    set_arguments(function, attributes)
    return argument


def set_arguments(function: func.FuncOp, attributes: list[ir.Attribute]) -> None:
    """Give ``function`` the type that the arguments of its block have, and their attributes."""
    types = [argument.type for argument in function.entry_block.arguments]
    signature = ir.FunctionType.get(types, function.type.results)
    function.attributes["function_type"] = ir.TypeAttr.get(signature)
    function.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)


def add_result(function: func.FuncOp, value: ir.Value, role: str, name: str) -> None:
    """Append a result of ``role`` to an entry point."""
    entry = ir.DictAttr.get({f"mlcflow.{role}": ir.StringAttr.get(name)})
    values = [*results_of(function), value]
    set_results(function, values, [*ir.ArrayAttr(function.attributes["res_attrs"]), entry])


def set_results(
    function: func.FuncOp, values: list[ir.Value], attributes: list[ir.Attribute]
) -> None:
    """Let ``function`` return ``values``, and give its results these attributes."""
    block = function.entry_block
    terminator = block.operations[len(block.operations) - 1]
    with ir.InsertionPoint(terminator), terminator.location:
        func.ReturnOp(values)
    terminator.operation.erase()
    types = [argument.type for argument in block.arguments]
    signature = ir.FunctionType.get(types, [value.type for value in values])
    function.attributes["function_type"] = ir.TypeAttr.get(signature)
    function.attributes["res_attrs"] = ir.ArrayAttr.get(attributes)


def results_of(function: func.FuncOp) -> list[ir.Value]:
    """The values that ``function`` returns."""
    block = function.entry_block
    return list(block.operations[len(block.operations) - 1].operands)


def names_of(function: func.FuncOp, role: str, *, results: bool = False) -> list[str | None]:
    """The name of each argument (or result) that has the role; ``None`` for the others."""
    key = "res_attrs" if results else "arg_attrs"
    entries = ir.ArrayAttr(function.attributes[key]) if key in function.attributes else []
    found = [ir.DictAttr(entry) for entry in entries]
    return [
        ir.StringAttr(entry[f"mlcflow.{role}"]).value if f"mlcflow.{role}" in entry else None
        for entry in found
    ]


def record_interface(module: ir.Module) -> None:
    """Keep the interface as an attribute of the module, which outlives the lowering to LLVM.

    Runs on memrefs, as the last step before the LLVM dialect. Also asks for the C interface
    of the entry points, through which the runtime calls them.
    """
    if not entry_points(module):
        return  # in the LLVM dialect, and recorded
    interface = {}
    for function in entry_points(module):
        ports = [
            _port(ir.DictAttr(attributes), kind, returned=True)
            for attributes, kind in _attributes(function, "res_attrs", function.type.results)
        ]
        ports += [
            _port(ir.DictAttr(attributes), kind, returned=False)
            for attributes, kind in _attributes(function, "arg_attrs", function.type.inputs)
        ]
        interface[function.name.value] = ir.ArrayAttr.get(ports)
        function.attributes["llvm.emit_c_interface"] = ir.UnitAttr.get()
    module.operation.attributes[INTERFACE] = ir.DictAttr.get(interface)


def _attributes(
    function: func.FuncOp, key: str, types: list[ir.Type]
) -> list[tuple[ir.Attribute, ir.Type]]:
    return list(zip(ir.ArrayAttr(function.attributes[key]), types, strict=True)) if types else []


def _port(attributes: ir.DictAttr, kind: ir.Type, *, returned: bool) -> ir.DictAttr:
    role = next(role for role in _ROLES if f"mlcflow.{role}" in attributes)
    entries: dict[str, ir.Attribute] = {
        "role": ir.StringAttr.get(role),
        "name": attributes[f"mlcflow.{role}"],
        "type": ir.TypeAttr.get(kind),
    }
    for extra in ("dtype", "dims"):
        if f"mlcflow.{extra}" in attributes:
            entries[extra] = attributes[f"mlcflow.{extra}"]
    if returned:
        entries["returned"] = ir.UnitAttr.get()
    return ir.DictAttr.get(entries)
