"""A scheduled program on its way to a GPU."""

from __future__ import annotations

from mlcflow.graph.interface import normalize_interface
from mlcflow.mlir import clone, ir
from mlcflow.pipeline import Stages
from mlcflow.target import Target


def lower_program(
    module: ir.Module, target: Target | str = "cuda:sm_90", *, until: str | None = None
) -> Stages:
    """The stages of pipeline ``cuda`` behind its rules, on a copy of ``module``.

    ``module`` is a program as its schedule left it, the counterpart of
    :func:`mlcflow.schedule.program.load_program`. ``until``: the last stage; the last of the
    pipeline by default, which needs ``mlcflow[cuda]``.
    """
    from mlcflow.compiler import build_pipeline

    program = clone(module)
    with program.context, ir.Location.unknown():
        normalize_interface(program)
    return build_pipeline("cuda", target).run(program, start="bufferize", until=until)
