"""Telling what goes on while it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcflow.check.isolate import Limits, is_supported
from mlcflow.pipeline import Pipeline, StageRecord, write_module

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show ``text`` with a spinner; the yielded function replaces the text.

    Shows nothing where no person watches: when standard output or error is no terminal.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def stage_line(name: str, seconds: float, operations: int | None = None) -> str:
    """One line of a compilation: what was done, how long it took, operations it left."""
    count = "" if operations is None else f"  {operations:7d} operations"
    return f"  {name:<22s} {seconds * 1e3:9.1f} ms{count}"


def compile_and_tell(
    model: Any,
    args: tuple,
    kwargs: Mapping[str, Any],
    pipeline: Pipeline,
    say: Callable[[str], None],
    *,
    dump_dir: Path | None = None,
    verify: bool = False,
    isolate: bool | Limits | None = None,
    trusted: bool = False,
) -> tuple[Executable, dict[str, Any]]:
    """``mlcflow.compile`` that gives ``say`` a line for each thing it did.

    Writes the module of each stage into ``dump_dir``, numbered. ``isolate`` is on where the
    system can, if it does not say. Returns the executable, and what it told as data for JSON.
    """
    from mlcflow.compiler import compile

    names = [*(stage.name for stage in pipeline.stages), "machine code"]
    records: list[StageRecord] = []
    begin = time.perf_counter()
    marks = [begin]  # when the import, then each stage, was over

    with working("import") as doing:

        def on_stage(record: StageRecord) -> None:
            now = time.perf_counter()
            if not records:
                marks.append(now - record.seconds)
                say(stage_line("import", marks[-1] - begin))
            records.append(record)
            marks.append(now)
            say(stage_line(record.name, record.seconds, record.operations))
            doing(names[len(records)])
            if dump_dir:
                write_module(dump_dir / f"{len(records) - 1:02d}-{record.name}.mlir", record.module)

        executable = compile(
            model, *args, kwargs=kwargs, pipeline=pipeline, verify=verify, on_stage=on_stage,
            isolate=is_supported() if isolate is None else isolate, trusted=trusted,
        )  # fmt: skip
        end = time.perf_counter()
    say(stage_line("machine code" + (", verified" if verify else ""), end - marks[-1]))
    return executable, {
        "pipeline": pipeline.name,
        "compile_seconds": end - begin,
        "import_seconds": marks[1] - begin,
        "stages": [_stage_as_json(record) for record in records],
    }


def _stage_as_json(record: StageRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "seconds": record.seconds,
        "operations": record.operations,
        "steps": [{"name": name, "seconds": seconds} for name, seconds in record.steps],
    }
