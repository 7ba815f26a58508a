"""The spine: frontend -> pipeline -> executable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlcflow.cached import compile_cached, key_for, load_compiled, open_cache
from mlcflow.check.isolate import Limits
from mlcflow.check.verify import check_executable
from mlcflow.frontends import Imported
from mlcflow.frontends.model import read_model
from mlcflow.isolated import compile_isolated
from mlcflow.lowered import compile_here, load
from mlcflow.pipeline import Pipeline, StageRecord
from mlcflow.runtime.executable import Executable
from mlcflow.target import Target


def compile(
    model: Any,
    *example_inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    target: Target | str | None = None,
    pipeline: str | Pipeline = "cpu",
    options: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    threads: int | None = None,
    verify: bool = True,
    cache: bool | str | Path = True,
    isolate: bool | Limits = False,
    trusted: bool = False,
    on_stage: Callable[[StageRecord], None] | None = None,
) -> Executable:
    """Compile a model for a target; the host by default.

    ``model``: a ``torch.nn.Module``, an ``ExportedProgram`` or a function of tensors, with
    ``example_inputs`` (and ``kwargs``) that fix shapes and dtypes; or a tensor function, an
    ``ir.Module``, MLIR text, or the ``Path`` of an MLIR file, which need none. ``pipeline``: a
    name, with its ``options``, or a ``Pipeline``. ``threads``: see ``Executable.threads``.
    ``verify`` compares model and executable on copies of the example inputs, if there are any.
    ``cache``: take the code from an earlier process that compiled the same, and keep it for a
    later one (``False``: do not; a directory: there); see docs/cache.md. ``isolate``: compile in
    a process of its own, within limits, so that a crash is a ``LoweringError``; docs/isolation.md.
    ``trusted``: MLIR may hold the LLVM dialect and call any C function; see SECURITY.md.
    Raises ``ImportModelError``, ``LoweringError``, ``ExecutionError`` or ``VerificationError``.
    """
    keywords = dict(kwargs or {})
    imported = read_model(model, example_inputs, keywords, dynamic_shapes, trusted=trusted)
    built = build_pipeline(pipeline, target, options)

    def check(executable: Executable) -> None:
        if verify and imported.tensors:
            check_executable(executable, model, example_inputs, keywords)

    limits = Limits() if isolate is True else isolate or None
    make = partial(compile_isolated, limits=limits) if limits else compile_here
    place = None if on_stage else open_cache(cache)
    key = place and key_for(imported, pipeline, options, target)
    if place and key:
        return compile_cached(place, key, imported, built, threads, check if verify else None, make)
    if limits:
        compiled = compile_isolated(imported, built, limits, on_stage)
        executable = load_compiled(compiled, imported, built, threads)[0]
    else:
        executable = load(imported, built, threads=threads, on_stage=on_stage)
    check(executable)
    return executable


def import_model(
    model: Any,
    args: tuple = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Imported:
    """Bring a model into MLIR, whatever it comes from."""
    imported = read_model(model, args, kwargs, dynamic_shapes)
    assert imported.module  # it is made here, not later
    return imported


def build_pipeline(
    pipeline: str | Pipeline,
    target: Target | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Pipeline:
    """The pipeline itself, or the one of that name for the target."""
    if isinstance(pipeline, Pipeline):
        return pipeline
    from mlcflow.pipelines import build

    here = "cuda" if pipeline == "cuda" else "host"
    chosen = target if isinstance(target, Target) else Target.parse(target or here)
    return build(pipeline, chosen, **(options or {}))
