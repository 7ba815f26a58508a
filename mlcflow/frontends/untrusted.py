"""What MLIR from a file may hold, unless its author is trusted.

A module is code. One that consists of computations on tensors and memory can at worst compute
nonsense, or reach beyond an array; one in the LLVM dialect can do whatever the process can.
See SECURITY.md for what remains.
"""

from __future__ import annotations

from mlcflow.errors import ImportModelError
from mlcflow.mlir import ir, walk
from mlcflow.runtime.library import PREFIX
from mlcflow.runtime.symbols import MATH

_NAMES = """affine arith bufferization builtin cf chlo complex func index linalg math memref
ml_program quant scf shape sparse_tensor stablehlo tensor tm_tensor torch torch_c ub vector vhlo"""
DIALECTS = frozenset(_NAMES.split())
"""The dialects of untrusted modules: none has an operation that names memory or C functions."""

_SHOWN = 10


def refuse_source(module: ir.Module) -> None:
    """Raise ``ImportModelError`` that lists the operations that only a trusted module may hold."""
    found = []
    for op in walk(module.operation):
        name = op.operation.name
        if name.split(".")[0] not in DIALECTS:
            found.append(name)
        elif name == "func.func" and not op.operation.regions[0].blocks:
            function = ir.StringAttr(op.attributes["sym_name"]).value
            if not function.startswith(PREFIX) and not _is_math(function, op):
                found.append(f"the C function @{function}")
    if found:
        names = sorted(set(found))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ImportModelError(
            f"this module is not trusted, and holds {', '.join(names[:_SHOWN])}{more}; pass "
            "trusted=True (--trusted) if you know who wrote it: it can do what you can"
        )


def _is_math(function: str, op: ir.OpView) -> bool:
    """Whether a declaration is that of a C function of numbers alone."""
    types = [*op.type.inputs, *op.type.results]
    numbers = ir.FloatType, ir.IntegerType, ir.ComplexType
    return function in MATH and all(isinstance(kind, numbers) for kind in types)
