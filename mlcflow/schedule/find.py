"""Finding the kernel that a schedule is for."""

from __future__ import annotations

from mlcflow.errors import ScheduleError, unknown_name
from mlcflow.graph.kernel import Kernel, find_kernels, read_kernel
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir


def find_kernel(module: ir.Module, name: str | None) -> Kernel:
    """The kernel of that name; the only function of the module if there is no kernel yet.

    Raises ``ScheduleError`` with the names that there are.
    """
    if not kernels(module):
        return _only_function(module, name)
    known = {kernel.name: kernel for kernel in find_kernels(module)}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name not in known:
        raise ScheduleError(unknown_name("kernel", str(name), known))
    return known[name]


def _only_function(module: ir.Module, name: str | None) -> Kernel:
    functions = [op for op in module.body.operations if isinstance(op, func.FuncOp)]
    chosen = [f for f in functions if name in (None, f.name.value) and not f.is_external]
    kernel = read_kernel(chosen[0]) if len(chosen) == 1 else None
    if kernel is None:
        names = [f.name.value for f in functions]
        raise ScheduleError(
            f"expected one function of linalg operations called {name or 'anything'}, "
            f"found {', '.join(names) or 'none'}"
        )
    return kernel
