"""``exp(x) - 1`` for what is small."""

from __future__ import annotations

from mlcflow.mlir import func, ir, vector, walk

_FUNCTIONS = {"f32": "expm1f", "f64": "expm1"}


def call_expm1(module: ir.Module) -> None:
    """Let ``math.expm1`` be that of the C library, a call for each element of a vector.

    Upstream lowers it to ``exp(x) - 1``, which is 0 for 1e-10; for ``math.log1p`` that is an option
    of the pass.
    """
    for op in walk(module.operation):
        if op.operation.name == "math.expm1" and str(_element(op.result.type)) in _FUNCTIONS:
            with ir.InsertionPoint(op), op.location:
                op.result.replace_all_uses_with(_called(op.operands[0], module))
            op.operation.erase()


def _element(kind: ir.Type) -> ir.Type:
    return ir.VectorType(kind).element_type if isinstance(kind, ir.VectorType) else kind


def _called(value: ir.Value, module: ir.Module) -> ir.Value:
    kind = _element(value.type)
    name = _FUNCTIONS[str(kind)]
    if name not in ir.SymbolTable(module.operation):
        with ir.InsertionPoint.at_block_begin(module.body), ir.Location.unknown():
            func.FuncOp(name, ([kind], [kind]), visibility="private")
    if value.type == kind:
        return func.CallOp([kind], name, [value]).results[0]
    elements = vector.ToElementsOp(value).results
    called = [func.CallOp([kind], name, [element]).results[0] for element in elements]
    return vector.FromElementsOp(value.type, called).result
