"""What ``@main`` and ``@prepare`` take and give, read from a module in the LLVM dialect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlcflow.errors import ExecutionError
from mlcflow.mlir import ir
from mlcflow.runtime import dtypes

THREADS = "mlcflow.threads"
"""The attribute of a module that says how many threads it was compiled for."""
DYNAMIC = ir.ShapedType.get_dynamic_size()


@dataclass(frozen=True)
class Port:
    """One array that a compiled function takes or gives.

    ``role``: ``input``, ``parameter``, ``prepared``, ``output``, ``mutates``, ``arena`` or
    ``status``. ``shape`` has ``-1`` for a size known at run time only; ``dims`` names such
    sizes, equal names being equal sizes. ``returned``: allocated by the function itself, since
    only it knows the size.
    """

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    dims: tuple[str, ...] = ()
    returned: bool = False

    @property
    def numpy(self) -> np.dtype:
        """The element type as numpy has it."""
        return dtypes.NUMPY[self.dtype]

    @property
    def is_static(self) -> bool:
        """Whether every size is known."""
        return -1 not in self.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the array; every size must be known."""
        return math.prod(self.shape) * self.numpy.itemsize

    def __str__(self) -> str:
        sizes = "x".join("?" if size < 0 else str(size) for size in self.shape)
        return f"{self.role} '{self.name}' ({self.dtype}[{sizes}])"


def read_interface(module: ir.Module) -> tuple[dict[str, list[Port]], list[str]]:
    """The ports of each entry function, and the messages of the module's assertions.

    Raises ``ExecutionError`` when the pipeline has not left them in the module.
    """
    attributes = module.operation.attributes
    if "mlcflow.interface" not in attributes:
        raise ExecutionError(
            "the module does not say what @main takes and gives; the step 'record_interface' "
            "belongs into every pipeline, after the conversion to memory"
        )
    interface = ir.DictAttr(attributes["mlcflow.interface"])
    functions = {
        function.name: [_port(ir.DictAttr(port)) for port in ir.ArrayAttr(function.attr)]
        for function in interface
    }
    messages: list[str] = []
    if "mlcflow.assertions" in attributes:
        messages = [ir.StringAttr(a).value for a in ir.ArrayAttr(attributes["mlcflow.assertions"])]
    return functions, messages


def read_threads(module: ir.Module) -> int:
    """How many threads a module was compiled for; 1 if it does not say."""
    attributes = module.operation.attributes
    return ir.IntegerAttr(attributes[THREADS]).value if THREADS in attributes else 1


def _port(attribute: ir.DictAttr) -> Port:
    kind = ir.MemRefType(ir.TypeAttr(attribute["type"]).value)
    if "dtype" in attribute:
        dtype = ir.StringAttr(attribute["dtype"]).value
    else:
        dtype = dtypes.of_mlir(str(kind.element_type))
    dims: tuple[str, ...] = ()
    if "dims" in attribute:
        dims = tuple(ir.StringAttr(a).value for a in ir.ArrayAttr(attribute["dims"]))
    return Port(
        role=ir.StringAttr(attribute["role"]).value,
        name=ir.StringAttr(attribute["name"]).value,
        dtype=dtype,
        shape=tuple(-1 if size == DYNAMIC else size for size in kind.shape),
        dims=dims,
        returned="returned" in attribute,
    )
