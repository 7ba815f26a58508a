"""``mlcflow compile``: a model as a folder that another machine runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlcflow.tools.options import json_option, parse_pipeline, target_options

if TYPE_CHECKING:
    from mlcflow.gpu.ptx import Resources
    from mlcflow.pipeline import Pipeline

_HELP = """Compile MODEL for a GPU of NVIDIA and write it to a folder. No GPU is needed.

\b
MODEL is FILE.py[:NAME] or FILE.mlir, as for `mlcflow run`. FILE.py is executed as
Python. A machine with Python, numpy and NVIDIA's driver runs what is written:

\b
mlcflow compile model.py --target=cuda:sm_90a --output=folder
python folder/loader.py x.npy
"""


@click.command(name="compile", help=_HELP, short_help="Compile a model for a GPU elsewhere.")
@click.argument("model")
@target_options
@click.option("--output", required=True, metavar="FOLDER", help="Where to write it.")
@json_option
def command(model: str, target: str, options: tuple[str, ...], output: str, as_json: bool) -> None:
    """Compile the model of a file; the text of ``--help`` is above."""
    if not target.startswith("cuda"):
        raise click.UsageError(
            f"--target: expected cuda:CHIP, such as cuda:sm_90a, got '{target}'; `mlcflow run` "
            "compiles for a processor"
        )
    pipeline = parse_pipeline("cuda", target, options)
    report = _compile(model, pipeline, target, Path(output), quiet=as_json)
    if as_json:
        click.echo(json.dumps(report, indent=2))


def _compile(
    text: str, pipeline: Pipeline, target: str, folder: Path, *, quiet: bool
) -> dict[str, Any]:
    from mlcflow.compiler import import_model
    from mlcflow.gpu.host_calls import shared_of
    from mlcflow.gpu.ptx import assemble, has_ptxas, ptx_of
    from mlcflow.gpu.save import save
    from mlcflow.report.progress import stage_line
    from mlcflow.tools.options import parse_target
    from mlcflow.tools.run_file import find_model

    say = (lambda line: None) if quiet else partial(print, flush=True)
    say(f"{text}: pipeline '{pipeline.name}', target {target}")
    found = find_model(text, ())
    imported = import_model(found.source, found.args, found.kwargs)
    stages = pipeline.run(
        imported.module,
        on_stage=lambda record: say(stage_line(record.name, record.seconds, record.operations)),
    )
    module = stages[pipeline.stages[-1].name]
    shared = shared_of(module)
    written = save(module, imported.parameters, folder)
    files = {path.name: path.stat().st_size for path in sorted(written)}
    kernels: dict[str, Resources] = {}
    if has_ptxas():
        kernels = assemble(ptx_of(module), parse_target(target), shared)
    say(f"  {len(shared)} kernels" + _summary(kernels))
    say(f"written to {folder}: {', '.join(files)} ({sum(files.values()) / 1e6:.1f} MB)")
    return {
        "model": text,
        "target": target,
        "stages": {record.name: record.seconds for record in stages.records},
        "kernels": {
            name: {key: getattr(kernels.get(name), key, None) for key in ("registers", "spills")}
            | {"dynamic_shared": nbytes}
            for name, nbytes in shared.items()
        },
        "files": files,
    }


def _summary(kernels: dict[str, Resources]) -> str:
    """What the largest take, and which of them spill registers."""
    if not kernels:
        return ""
    registers = max(each.registers for each in kernels.values())
    shared = max(each.shared for each in kernels.values())
    spilled = [name for name, each in kernels.items() if each.spills]
    text = f": up to {registers} registers a thread, {shared / 1024:.0f} KiB of shared memory"
    return text + (f"; registers spill in {', '.join(spilled)}" if spilled else "")
