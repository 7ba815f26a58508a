"""``mlcflow bench``: how fast a model is, beside what people would use instead."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlcflow.atomic import write_whole
from mlcflow.bench.sides import OURS, PEERS
from mlcflow.errors import MlcflowError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from mlcflow.bench.marks import Verdict
    from mlcflow.bench.result import Peaks, Result

DEFAULT = "eager,inductor,onnxruntime,openvino"

_HELP = f"""Measure MODEL compiled by mlcflow, beside other ways to run it.

\b
MODEL is FILE.py[:NAME] with a PyTorch model, as for `mlcflow run`, or a
built-in workload (`mlcflow bench --list`).

Each side runs in a process of its own, in turn, on the same fresh inputs, with the same number
of threads; one that gives wrong results, compared with float64, gets no time. The sides are
{", ".join(PEERS)}; what they need comes with `pip install 'mlcflow[bench]'`.

\b
mlcflow bench mlp-784-128-10 --against=eager,onnxruntime --threads=1
mlcflow bench model.py --rounds=10 --budget=5 --json=times.json
mlcflow bench resnet50 --kernels
mlcflow bench --suite=marks
mlcflow bench --target=cuda --suite=marks      # on a machine with a GPU
"""


@click.command(name="bench", help=_HELP, short_help="Measure a model beside other ways to run it.")
@click.argument("model", required=False)
@click.option(
    "--against", default=DEFAULT, show_default=True, metavar="SIDES", help="The other sides."
)
@click.option("--target", help="cuda: on the GPU of this machine, beside PyTorch's own.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="For every side.")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each side."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Timed calls of a side, in all.",
)
@click.option(
    "--limit",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="A side that takes longer to compile is given up.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write what was found; - prints it.")
@click.option("--kernels", is_flag=True, help="A row a kernel of mlcflow, instead of sides.")
@click.option("--suite", type=click.Choice(["marks"]), help="Measure all workloads.")
@click.option("--list", "listing", is_flag=True, help="List the workloads.")
def command(model: str | None, **given: Any) -> None:
    """Measure; the text of ``--help`` is above."""
    from rich.console import Console

    # A wide table is better cut by the reader's own pager than folded by us.
    quiet = given["json_file"] == "-"
    console = Console(quiet=quiet, width=None if Console().is_terminal else 140)
    if (given["target"] or "").startswith("cuda"):
        from mlcflow.gpu.bench_command import bench

        _write(given["json_file"], bench(model, given, console))
        return
    if given["listing"]:
        from mlcflow.bench.show import show_workloads

        show_workloads(console)
        return
    if bool(model) == bool(given["suite"]):
        raise click.UsageError("expected one of MODEL, --suite=marks and --list")
    if model:
        _check_name(model)
    if given["kernels"]:
        if not model:
            raise click.UsageError("--kernels needs a MODEL")
        _write(given["json_file"], _kernels(model, given, console))
    else:
        found = _sides(model, given, console)
        _write(given["json_file"], found)
        if any(OURS not in each["sides"] for each in ([found] if model else found)):
            raise click.exceptions.Exit(1)  # our results were wrong, or there were none


def _sides(model: str | None, given: dict[str, Any], console: Console) -> Any:
    """Measure one model or all workloads; what was found, as data."""
    from mlcflow.bench.show import show_peaks, show_result, show_suite
    from mlcflow.bench.workloads import WORKLOADS

    peers = _peers(given["against"])
    rows: list[tuple[Result, list[Verdict], Peaks]] = []
    for name in [model] if model else WORKLOADS:
        result, verdicts, peaks = _measure(name, peers, given)
        if not rows or peaks != rows[-1][2]:
            show_peaks(peaks, console)
        show_result(result, peaks, verdicts, console)
        rows.append((result, verdicts, peaks))
    if not model:
        show_suite([(result, verdicts) for result, verdicts, _ in rows], console)
    data = [
        result.as_data(peaks) | {"marks": [vars(verdict) for verdict in verdicts]}
        for result, verdicts, peaks in rows
    ]
    return data[0] if model else data


def _check_name(model: str) -> None:
    """Raise ``click.UsageError`` if there is no such file or workload."""
    from mlcflow.bench.workloads import WORKLOADS
    from mlcflow.tools.python_file import split_name

    file = split_name(model)
    if file and not file[0].is_file():
        raise click.UsageError(f"no file '{file[0]}'")
    if not file and model not in WORKLOADS:
        raise click.UsageError(unknown_name("workload", model, WORKLOADS))


@cache
def _peaks(threads: int) -> Peaks:
    from mlcflow.bench.result import measure_peaks

    return measure_peaks(threads)


def _measure(
    name: str, peers: list[str], given: dict[str, Any]
) -> tuple[Result, list[Verdict], Peaks]:
    """One workload, how it stands to its mark, and what the machine can do."""
    from mlcflow.bench.compete import Settings, compete
    from mlcflow.bench.marks import judge
    from mlcflow.bench.result import Result
    from mlcflow.bench.workloads import WORKLOADS
    from mlcflow.report.progress import working

    workload = WORKLOADS.get(name)
    settings = Settings(_threads(name, given), given["rounds"], given["budget"], given["limit"])
    with working(name) as doing:
        doing("what the machine can do")
        peaks = _peaks(settings.threads)
        try:
            result = compete(name, peers, settings, lambda text: doing(f"{name}: {text}"))
        except MlcflowError as error:
            if not given["suite"]:
                raise
            work = dict.fromkeys(("flops", "bytes", "weight_bytes", "tolerance"), 0)
            result = Result(name, settings.threads, work, {}, {OURS: str(error)})
    return result, judge(workload.mark, result, peaks) if workload else [], peaks


def _threads(name: str, given: dict[str, Any]) -> int:
    """As asked for; else those of the workload, or all cores."""
    from mlcflow.bench.workloads import WORKLOADS
    from mlcflow.target import Target

    asked: int | None = given["threads"]
    if asked is None and name in WORKLOADS:
        asked = WORKLOADS[name].threads
    return asked or Target.host().cores


def _kernels(model: str, given: dict[str, Any], console: Console) -> Any:
    """The profile of a model, shown; what was found, as data."""
    from dataclasses import replace

    import mlcflow
    from mlcflow.bench.model import build
    from mlcflow.report.profile_text import renderable
    from mlcflow.report.progress import working
    from mlcflow.target import Target

    flat, example = build(model)
    target = replace(Target.host(), cores=_threads(model, given))
    with working(f"{model}: compile") as doing:
        executable = mlcflow.compile(flat, *example, target=target)
        doing(f"{model}: time kernels")
        profile = executable.profile(*example, seconds=given["budget"])
    console.print(renderable(profile))
    return profile.as_data()


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in PEERS:
            raise click.UsageError(unknown_name("side", name, PEERS))
    return list(dict.fromkeys(names))


def _write(file: str | None, data: Any) -> None:
    if file == "-":
        click.echo(json.dumps(data, indent=2))
    elif file:
        write_whole(Path(file), json.dumps(data, indent=2) + "\n")
