"""Compiling in a process of its own, so that what kills the compiler does not kill the caller.

The worker makes what the cache keeps, a program with its object file, and that comes back. The
module of each stage goes to a file before the next stage begins, so that it is there when the
worker is not. Parameters do not travel: the program only knows their names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from mlcflow import mlir
from mlcflow.announce import IMPORT, Start, listening
from mlcflow.check.isolate import Limits, Say, WorkerDied, isolated
from mlcflow.check.parcel import Parcel
from mlcflow.errors import LoweringError
from mlcflow.failure import reproducer
from mlcflow.frontends import Imported
from mlcflow.gpu.host_calls import has_kernels
from mlcflow.lowered import Compiled, check_lowered, stored
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, StageRecord, Stages
from mlcflow.runtime.stored import from_bytes

OnStage = Callable[[StageRecord], None]


def compile_isolated(
    imported: Imported, built: Pipeline, limits: Limits, on_stage: OnStage | None = None
) -> Compiled:
    """Compile in a worker process. ``on_stage`` is called here, while the worker goes on.

    Raises what compiling raises, and ``LoweringError`` when the worker dies: it names stage and
    step, and the module before them is in a file. Parameters that lowering adds are added.
    """
    make, new = _portable(imported), _new_parameters(imported)

    def work(trail: _Trail) -> bytes:
        module, program = make(), b""
        built.run(module, keep=False, on_stage=trail.leave)
        check_lowered(module, imported)
        if not has_kernels(module):
            program = stored(module, imported, built).to_bytes()
        trail.write("last.mlirbc", module)
        return Parcel(program, new()).to_bytes()

    with tempfile.TemporaryDirectory(prefix="mlcflow-") as name:
        course = _Course(Path(name), on_stage)
        parcel = Parcel.from_bytes(_follow(course, work, limits, built))
        last = (course.folder / "last.mlirbc").read_bytes()
        stages = course.stages()
    program = from_bytes(parcel.program) if parcel.program else None
    _add_parameters(imported, parcel)
    return Compiled(program, stages, lambda: mlir.parse(last))


def import_isolated(imported: Imported, limits: Limits) -> Imported:
    """The same model, lowered to linalg, or parsed, in a worker process.

    Raises like :func:`compile_isolated`.
    """
    make, new = _portable(imported), _new_parameters(imported)
    with tempfile.TemporaryDirectory(prefix="mlcflow-") as name:
        course = _Course(Path(name), None)

        def work(trail: _Trail) -> bytes:
            return Parcel(bytecode(make()), new()).to_bytes()

        parcel = Parcel.from_bytes(_follow(course, work, limits, None))
    _add_parameters(imported, parcel)
    return replace(imported, source=mlir.parse(parcel.program))


def text_isolated(make: Callable[[], str], limits: Limits, built: Pipeline | None) -> str:
    """The text that ``make`` gives in a worker process, running ``built`` or nothing that is known.

    Raises like :func:`compile_isolated`.
    """
    with tempfile.TemporaryDirectory(prefix="mlcflow-") as name:
        course = _Course(Path(name), None)
        return _follow(course, lambda trail: make().encode(), limits, built).decode()


def _follow(
    course: _Course, work: Callable[[_Trail], bytes], limits: Limits, built: Pipeline | None
) -> bytes:
    """What ``work`` gives in a worker; its death is a ``LoweringError`` that says where it was."""

    def run(say: Say) -> bytes:
        trail = _Trail(course.folder, say)
        with listening(trail.enter):
            return work(trail)

    try:
        return isolated(run, limits, course.hear)
    except WorkerDied as death:
        raise _explain(death, course, built) from death


def _portable(imported: Imported) -> Callable[[], ir.Module]:
    """How the worker gets the module: one that is here already, it parses anew."""
    if callable(imported.source) and not {"original", "module"} & set(vars(imported)):
        return imported.source
    data = bytecode(imported.module)
    return lambda: mlir.parse(data)


def _new_parameters(imported: Imported) -> Callable[[], dict[str, Any]]:
    """What gives the parameters that lowering has added since now."""
    before = set(imported.parameters)
    return lambda: {k: v for k, v in imported.parameters.items() if k not in before}


def _add_parameters(imported: Imported, parcel: Parcel) -> None:
    if parcel.parameters:
        cast(MutableMapping, imported.parameters).update(parcel.parameters)


def bytecode(module: ir.Module) -> bytes:
    """The module with all it holds, source locations too."""
    stream = BytesIO()
    module.operation.write_bytecode(stream)
    return stream.getvalue()


class _Trail:
    """The worker's side: a note before each step, a file before each stage."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say = folder, say
        self._stage, self._file, self._done = "", "", 0

    def enter(self, stage: str, step: str, start: Start) -> None:
        """Say which step comes; write what it starts from, unless a stage has just left it."""
        if isinstance(start, Path):
            self._file = str(start.absolute())
        elif isinstance(start, ir.Module) and stage == IMPORT:
            self._file = self.write("import.mlirbc", start)
        elif isinstance(start, ir.Module) and stage != self._stage and not self._done:
            self._file = self.write("00.mlirbc", start)
        elif isinstance(start, str | bytes):
            self._file = "source.mlir"
            data = start.encode() if isinstance(start, str) else start
            (self._folder / self._file).write_bytes(data)
        self._stage = stage
        self._say({"stage": stage, "step": step, "file": self._file})

    def leave(self, record: StageRecord) -> None:
        """Say what a stage did; write the module that it left."""
        self._done += 1
        self._file = self.write(f"{self._done:02d}.mlirbc", record.module)
        self._say({
            "did": record.name,
            "seconds": record.seconds,
            "steps": record.steps,
            "operations": record.operations,
            "file": self._file,
        })  # fmt: skip

    def write(self, name: str, module: ir.Module) -> str:
        """Write the module; gives the name."""
        (self._folder / name).write_bytes(bytecode(module))
        return name


class _Course:
    """The caller's side: what the worker has done, where it is."""

    def __init__(self, folder: Path, on_stage: OnStage | None) -> None:
        self.folder, self._on_stage = folder, on_stage
        self.at: dict[str, Any] = {"stage": IMPORT, "step": "start", "file": ""}
        self._did: list[dict[str, Any]] = []
        self._records: list[StageRecord] = []
        self._context: ir.Context | None = None

    def hear(self, note: dict[str, Any]) -> None:
        """Take in a note."""
        if "did" not in note:
            self.at = note
            return
        self._did.append(note)
        if self._on_stage:
            self._context = self._context or mlir.context()
            data = (self.folder / note["file"]).read_bytes()
            self._records.append(_record(note, data, self._context))
            self._on_stage(self._records[-1])

    def stages(self) -> Stages | Callable[[], Stages]:
        """The modules that the stages left; parsed when they are asked for."""
        if self._on_stage:
            return Stages(tuple(self._records))
        left = [(note, (self.folder / note["file"]).read_bytes()) for note in self._did]
        return lambda: _parse_all(left)


def _parse_all(left: list[tuple[dict[str, Any], bytes]]) -> Stages:
    context = mlir.context()  # one, as if the stages had run here
    return Stages(tuple(_record(note, data, context) for note, data in left))


def _record(note: dict[str, Any], data: bytes, context: ir.Context) -> StageRecord:
    steps = tuple((name, seconds) for name, seconds in note["steps"])
    module = mlir.parse(data, context)
    return StageRecord(note["did"], module, note["seconds"], steps, note["operations"])


def _explain(death: WorkerDied, course: _Course, built: Pipeline | None) -> LoweringError:
    """The error that says where the worker was, with the module before that in a file."""
    stage, step = course.at["stage"], course.at["step"]
    command = ""
    if course.at["file"]:
        path = course.folder / course.at["file"]  # that of the caller is absolute
        path = _keep(path, stage) if path.parent == course.folder else path
        command = reproducer(built, stage, step, path)
    name = f"pipeline '{built.name}', " if built else ""
    return LoweringError(
        f"{name}stage '{stage}', step '{step}': the compiler {death.how}",
        stage=stage,
        step=step,
        diagnostics=death.telling,
        reproducer=command,
    )


def _keep(file: Path, stage: str) -> Path:
    """The module in a file that stays: as text, if it can be printed."""
    path = Path(tempfile.mkdtemp(prefix="mlcflow-")) / f"before-{stage.replace(' ', '-')}.mlir"
    if file.suffix == ".mlir":
        return Path(shutil.copy(file, path))
    try:
        # Printing what killed a process may kill another.
        path.write_bytes(isolated(lambda say: _as_text(file), Limits(seconds=60)))
    except Exception:
        path = path.with_suffix(".mlirbc")
        shutil.copy(file, path)
    return path


def _as_text(file: Path) -> bytes:
    return mlir.asm(mlir.parse(file.read_bytes()), locations=True).encode()
