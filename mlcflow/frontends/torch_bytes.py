"""Tensors of bytes: torch-mlir's lowering to linalg crashes on some of the arithmetic, and
takes unsigned bytes for signed ones in comparisons, divisions, reductions and conversions."""

from __future__ import annotations

from mlcflow.mlir import ir, walk

# Element types in the torch dialect, and the numbers PyTorch gives them.
_BYTES = {"si8": 1, "ui8": 0}
_WIDE = ("si32", 3)

# What only moves or converts elements works on bytes as they are.
_MOVES = {
    f"torch.aten.{name}"
    for name in (
        "_int_mm", "_to_copy", "alias", "as_strided", "broadcast_to", "clone",
        "contiguous", "copy", "detach", "embedding", "empty_like", "expand", "fill.Scalar",
        "fill.Tensor", "flatten.using_ints", "flip", "full_like", "gather", "index.Tensor",
        "index_select", "lift_fresh_copy", "new_empty", "new_empty_strided", "new_full",
        "new_ones", "new_zeros", "numel", "ones_like", "permute", "repeat", "reshape", "roll",
        "select.int", "size", "size.int", "slice.Tensor", "slice_scatter", "split.Tensor",
        "squeeze", "squeeze.dim", "t", "tile", "to.dtype", "transpose.int", "tril", "triu",
        "unflatten.int", "unsqueeze", "view", "zeros_like",
    )
}  # fmt: skip

# The type of the result is an operand as well, so that it stays.
_CHOOSE_TYPE = {
    f"torch.aten.{name}" for name in ("sum", "sum.dim_IntList", "prod", "cumsum", "cumprod")
}


def widen_bytes(module: ir.Module) -> None:
    """Compute in int32 on tensors of bytes, and cut the results that are bytes.

    Sums, products and bits wrap around either way; everything else is the same. Runs on the
    torch dialect after its own decompositions, which leave nothing but plain operations.
    """
    with module.context:
        for op in walk(module.operation):
            name = op.operation.name
            if (
                name.startswith("torch.aten.")
                and name not in _MOVES
                and any(_bytes(value.type) for value in op.operands)
                and not any(str(v.type).startswith("!torch.list<vtensor") for v in op.operands)
            ):
                _widen(op.operation)


def _bytes(kind: ir.Type) -> str:
    """``si8`` or ``ui8`` for a tensor of bytes, else nothing."""
    text = str(kind)
    return next((e for e in _BYTES if text.startswith("!torch.vtensor") and e in text), "")


def _typed(kind: ir.Type, element: str) -> ir.Type:
    """The tensor type with another element type; the bindings cannot take the type apart."""
    return ir.Type.parse(f"{str(kind).rpartition(',')[0]},{element}>")


def _widen(op: ir.Operation) -> None:
    with ir.InsertionPoint(op), op.location:
        operands = [
            _convert(value, _typed(value.type, _WIDE[0]), _WIDE[1]) if _bytes(value.type) else value
            for value in op.operands
        ]
        kinds = [result.type for result in op.results]
        cut = [op.name not in _CHOOSE_TYPE and bool(_bytes(kind)) for kind in kinds]
        wide = ir.Operation.create(
            op.name,
            results=[_typed(k, _WIDE[0]) if c else k for k, c in zip(kinds, cut, strict=True)],
            operands=operands,
        )
        for old, new, is_cut in zip(op.results, wide.results, cut, strict=True):
            number = _BYTES[_bytes(old.type)] if is_cut else 0
            old.replace_all_uses_with(_convert(new, old.type, number) if is_cut else new)
    op.erase()


def _convert(value: ir.Value, kind: ir.Type, number: int) -> ir.Value:
    """``torch.aten.to.dtype`` at the insertion point."""
    i64 = ir.IntegerType.get_signless(64)
    dtype = _constant("torch.constant.int", "!torch.int", ir.IntegerAttr.get(i64, number))
    no = _constant("torch.constant.bool", "!torch.bool", ir.BoolAttr.get(False))
    none = _constant("torch.constant.none", "!torch.none", None)
    return ir.Operation.create(
        "torch.aten.to.dtype", results=[kind], operands=[value, dtype, no, no, none]
    ).results[0]


def _constant(name: str, kind: str, value: ir.Attribute | None) -> ir.Value:
    attributes = {} if value is None else {"value": value}
    return ir.Operation.create(name, results=[ir.Type.parse(kind)], attributes=attributes).results[
        0
    ]
