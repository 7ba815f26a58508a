"""Compiling, unless an earlier process has compiled the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlcflow import config
from mlcflow.cache_key import cache_key
from mlcflow.errors import ExecutionError
from mlcflow.frontends import Imported
from mlcflow.gpu.executable import DeviceExecutable
from mlcflow.lowered import Compiled, compile_here
from mlcflow.pipeline import Pipeline, Stages
from mlcflow.runtime import cache as directory
from mlcflow.runtime import object_code
from mlcflow.runtime.cache import Cache, Refused
from mlcflow.runtime.executable import Executable
from mlcflow.runtime.stored import StoredProgram, from_bytes, libraries_of
from mlcflow.runtime.symbols import refuse_symbols
from mlcflow.target import Target

log = logging.getLogger("mlcflow")


def open_cache(wanted: bool | str | Path) -> Cache | None:
    """The cache that ``compile(cache=wanted)`` asks for; ``None`` if it is to do without.

    Also without llvmlite, which loads programs, on systems where nobody can tell whose a file
    is, and when the environment asks to see the stages, which do not run for what is cached.
    """
    settings = config.from_environment()
    path = settings.cache_dir if wanted is True else Path(wanted or "").absolute()
    looked_at = settings.debug or settings.dump_dir
    if not wanted or path is None or looked_at or not directory.is_supported():
        return None
    if not object_code.is_available():
        log.info("no cache: it needs Linux and llvmlite: pip install 'mlcflow[cache]'")
        return None
    return Cache(path)


def compile_cached(
    cache: Cache,
    key: str,
    imported: Imported,
    built: Pipeline,
    threads: int | None,
    verify: Callable[[Executable], None] | None,
    compile_: Callable[[Imported, Pipeline], Compiled] = compile_here,
) -> Executable:
    """The executable of a model; its pipeline runs only if ``cache`` has no program ``key``.

    ``verify`` is called with a program that was not verified when it was made.
    """
    before = set(imported.parameters)  # lowering may add constants, which no cache knows

    def run_stages() -> Stages:
        return built.run(imported.module)

    known = program = _read(cache, key)
    executable = _load(program, imported, run_stages, built, threads) if program else None
    if executable is not None:
        log.info("from the cache: no stage has run")
    if program is None or executable is None:
        compiled = compile_(imported, built)
        assert compiled.program is not None  # what has kernels has no key
        executable, links = load_compiled(compiled, imported, built, threads)
        program = compiled.program if links else replace(compiled.program, code=b"")
    if verify is not None and not program.verified:
        verify(executable)
        program = replace(program, verified=True)
    if program is not known and program.code and program.parameters <= before:
        _write(cache, key, program)
    return executable


def load_compiled(
    compiled: Compiled, imported: Imported, built: Pipeline, threads: int | None
) -> tuple[Executable, bool]:
    """The executable of what was compiled just now, and whether its object file links.

    If not, the code is made again as MLIR itself loads it; what fails then raises
    ``ExecutionError``.
    """
    if compiled.program is not None and object_code.is_available():
        executable = _load(compiled.program, imported, compiled.stages, built, threads)
        if executable is not None:
            return executable, True
    loaded = Executable if compiled.program is not None else DeviceExecutable
    return loaded(compiled.module(), imported, compiled.stages, built, threads), False


def key_for(
    imported: Imported,
    pipeline: str | Pipeline,
    options: Mapping[str, Any] | None,
    target: Target | str | None,
) -> str | None:
    """The key of what ``compile`` is asked for; ``None`` for a pipeline that has no name."""
    if pipeline == "cuda":
        return None  # programs with kernels are not kept
    if isinstance(pipeline, Pipeline):
        return None  # its steps are functions, of which nobody can tell what they do
    machine = target if isinstance(target, Target) else Target.parse(target or "host")
    return cache_key(imported, pipeline, options or {}, machine)


def _read(cache: Cache, key: str) -> StoredProgram | None:
    try:
        data = cache.read(key)
        program = from_bytes(data) if data is not None else None
    except (Refused, OSError, ValueError) as error:
        log.warning("not from the cache: %s", error)
        return None
    return program


def _load(
    program: StoredProgram,
    imported: Imported,
    stages: Stages | Callable[[], Stages],
    built: Pipeline,
    threads: int | None,
) -> Executable | None:
    """The executable of a stored program; ``None`` if it does not fit, or not any more."""
    try:
        if not program.parameters <= set(imported.parameters):
            raise ExecutionError("the model does not have its parameters")
        if not imported.trusted:
            refuse_symbols(object_code.undefined_symbols(program.code))
        if libraries_of(f"library_{name}" for name in program.libraries) != program.libraries:
            raise ExecutionError("a library function has changed")
        return Executable(program, imported, stages, built, threads)
    except ExecutionError as error:
        log.warning("not from the cache: %s", error)
        return None


def _write(cache: Cache, key: str, program: StoredProgram) -> None:
    try:
        cache.write(key, program.to_bytes())
    except (Refused, OSError) as error:
        log.warning("not kept in the cache: %s", error)
