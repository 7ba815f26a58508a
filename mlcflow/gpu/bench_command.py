"""``mlcflow bench --target=cuda``: one command, on a machine with a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from mlcflow.bench.sides import OURS
from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.gpu.bench import (
    SIDES,
    Ceilings,
    Result,
    Timer,
    ceilings,
    cuda_timer,
    judge,
    measure,
)
from mlcflow.gpu.bench_workloads import WORKLOADS


def bench(model: str | None, given: dict[str, Any], console: Console) -> list[dict[str, Any]]:
    """Measure one workload or all, and show them; what was found, as data.

    Raises ``MlcflowError`` where PyTorch sees no GPU.
    """
    if model and model not in WORKLOADS:
        raise click.UsageError(unknown_name("workload", model, WORKLOADS))
    if not torch.cuda.is_available():
        raise MlcflowError(
            f"PyTorch {torch.__version__} sees no GPU; measuring needs one, and a PyTorch built "
            "for CUDA"
        )
    torch.manual_seed(20)
    torch.backends.cuda.matmul.allow_tf32 = False  # f32 is f32 for every side
    names = [model] if model else list(WORKLOADS)
    return run(
        names, sides_of(given["against"]), torch.device("cuda"), cuda_timer(), given, console
    )


def sides_of(against: str) -> dict[str, Callable]:
    """Ours, and those of the sides asked for that a GPU has."""
    wanted = [OURS, *(name for name in against.split(",") if name in SIDES)]
    return {name: SIDES[name] for name in dict.fromkeys(wanted)}


def run(
    names: list[str],
    sides: dict[str, Callable],
    device: torch.device,
    timer: Timer,
    given: dict[str, Any],
    console: Console,
    **size: Any,
) -> list[dict[str, Any]]:
    """Measure workloads on a device and show them."""
    most = ceilings(device, timer, **size)
    console.print(
        f"a copy {most.copy / 1e9:.0f} GB/s, a bf16 product {most.matmul / 1e12:.4g} TFLOP/s"
    )
    found = []
    for name in names:
        workload = WORKLOADS[name]
        built = workload.build()
        limits = {"rounds": given["rounds"], "seconds": given["budget"]}
        result = measure(name, built, sides, device, timer, **limits)
        verdicts = judge(workload.mark, result, most)
        console.print(_table(result, most))
        for verdict in verdicts:
            said = {True: "met", False: "not met", None: "not known"}[verdict.met]
            console.print(f"  {verdict.demand}: {verdict.found}, {said}")
        found.append(result.as_data(most, verdicts))
    return found


def _table(result: Result, most: Ceilings) -> Table:
    table = Table(title=result.name, title_justify="left")
    for name in ("side", "time", "TFLOP/s", "GB/s", "of copy", "of bf16 product", "error"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for name, side in sorted(result.sides.items(), key=lambda item: item[1].median):
        flops, moved = result.flops / side.median, result.bytes / side.median
        table.add_row(
            name,
            f"{side.median * 1e6:.1f} µs",
            f"{flops / 1e12:.1f}",
            f"{moved / 1e9:.0f}",
            f"{moved / most.copy:.0%}",
            f"{flops / most.matmul:.0%}",
            f"{side.error:.2g}",
        )
    for name, reason in result.failures.items():
        table.add_row(name, reason)
    return table
