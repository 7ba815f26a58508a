"""What ``@main`` and ``@prepare`` take and give, read from a module in the LLVM dialect."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
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
    with _written_by_a_pipeline():
        interface = ir.DictAttr(attributes["mlcflow.interface"])
        functions = {
            function.name: [_port(ir.DictAttr(port)) for port in ir.ArrayAttr(function.attr)]
            for function in interface
        }
        functions["main"]  # there always is one
        messages: list[str] = []
        if "mlcflow.assertions" in attributes:
            texts = ir.ArrayAttr(attributes["mlcflow.assertions"])
            messages = [ir.StringAttr(text).value for text in texts]
    return functions, messages


def read_threads(module: ir.Module) -> int:
    """How many threads a module was compiled for; 1 if it does not say."""
    attributes = module.operation.attributes
    with _written_by_a_pipeline():
        return ir.IntegerAttr(attributes[THREADS]).value if THREADS in attributes else 1


def check_ports(functions: Mapping[str, list[Port]], parameters: Collection[str]) -> None:
    """Raise ``ExecutionError`` for a port that there is no array for."""
    computed = {p.name for p in functions.get("prepare", []) if p.role == "prepared"}
    for function, ports in functions.items():
        inputs = {port.name for port in ports if port.role == "input"}
        known = {"parameter": parameters, "mutates": {*parameters, *inputs}}
        if function != "prepare":
            known["prepared"] = computed
        for port in ports:
            if port.name not in known.get(port.role, {port.name}):
                raise ExecutionError(
                    f"@{function}: {port}: the model has no array of that name, only "
                    f"{', '.join(sorted(known[port.role])) or 'none'}"
                )


@contextmanager
def _written_by_a_pipeline() -> Iterator[None]:
    """Raise ``ExecutionError`` where an attribute is not what ``record_interface`` writes."""
    try:
        yield
    except (KeyError, ValueError, TypeError) as error:
        raise ExecutionError(
            f"the module's mlcflow.* attributes are not those that a pipeline writes: {error}; "
            "remove them from the source"
        ) from error


def _port(attribute: ir.DictAttr) -> Port:
    kind = ir.MemRefType(ir.TypeAttr(attribute["type"]).value)
    stored = dtypes.of_mlir(str(kind.element_type))
    dtype = ir.StringAttr(attribute["dtype"]).value if "dtype" in attribute else stored
    # Else the runtime would give less memory than the code writes.
    if dtypes.NUMPY[dtype].itemsize != dtypes.NUMPY[stored].itemsize:
        raise ValueError(f"{dtype} is no {kind.element_type}")
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
