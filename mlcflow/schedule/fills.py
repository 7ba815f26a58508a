"""How the initial value of a reduction reaches it."""

from __future__ import annotations

from mlcflow.graph.linalg_ops import is_fill, outputs, owner
from mlcflow.mlir import ir, scf, tensor


def path_to_fill(target: ir.OpView) -> list[ir.Value]:
    """The values that lead from what ``target`` accumulates into to the result of a fill.

    Slices, values that loops carry, and the results of both; empty if no fill is reached.
    """
    value = outputs(target)[0]
    path = [value]
    while not is_filled(value):
        producer = owner(value)
        if producer is None:
            loop = value.owner.owner.opview
            if not isinstance(loop, scf.ForOp):
                return []
            value = loop.initArgs[ir.BlockArgument(value).arg_number - 1]
        elif isinstance(producer.opview, tensor.ExtractSliceOp):
            value = producer.opview.source
        else:
            return []
        path.append(value)
    return path


def is_filled(value: ir.Value) -> bool:
    """Whether ``value`` is the result of a fill."""
    producer = owner(value)
    return producer is not None and is_fill(producer)


def tile_in(path: list[ir.Value], loop: scf.ForOp) -> ir.Value | None:
    """The slice on ``path`` that is made directly in ``loop``."""
    slices = [value for value in path if not isinstance(value.owner, ir.Block)]
    return next((value for value in slices if value.owner.operation.block == loop.body), None)


def is_only_way(path: list[ir.Value]) -> bool:
    """Whether nothing but what lies on ``path`` reads the fill, and results just go back.

    A loop that was unrolled, for one, has several blocks that accumulate in each iteration.
    """
    return all(_leads_on(value) for value in path[1:])


def _leads_on(value: ir.Value) -> bool:
    users = [use.owner.opview for use in value.uses]
    back = [user for user in users if isinstance(user, tensor.InsertSliceOp) and user.dest == value]
    returned = all(
        isinstance(use.owner.opview, scf.YieldOp) for user in back for use in user.result.uses
    )
    return len(users) - len(back) == 1 and returned
