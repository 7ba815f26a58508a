"""Measuring on a GPU: each side in turn on the same fresh inputs, checked against float64."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

import mlcflow
from mlcflow.bench.model import Flat
from mlcflow.bench.reference import Reference
from mlcflow.bench.sides import OURS
from mlcflow.gpu.bench_workloads import Mark

Call = Callable[..., Any]
Timer = Callable[[Callable[[], Any], float], list[float]]
"""``timer(call, seconds)``: the seconds that each of some calls took on the device."""

MOST, LEAST = 1000, 5
"""Timed calls of a round."""


@dataclass(frozen=True)
class Ceilings:
    """What the device does at most: bytes a second of a copy, operations of a bf16 product."""

    copy: float
    matmul: float


@dataclass(frozen=True)
class Measured:
    """One side: seconds of a call, and the largest error in units of what rounding explains."""

    median: float
    least: float
    calls: int
    error: float


@dataclass(frozen=True)
class Verdict:
    """One demand of a mark, what was found, and whether that is enough (``None``: not known)."""

    demand: str
    found: str
    met: bool | None


@dataclass
class Result:
    """What the sides did with a workload; ``failures``: why the others have no times."""

    name: str
    flops: int
    bytes: int
    sides: dict[str, Measured] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def as_data(self, ceilings: Ceilings, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self) | {
            "ceilings": asdict(ceilings),
            "marks": [asdict(verdict) for verdict in verdicts],
        }


def cuda_timer(scratch_bytes: int = 256 << 20) -> Timer:
    """Events of the device around each call, which finds nothing of the last one in the caches."""
    scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device="cuda")

    def time(call: Callable[[], Any], seconds: float) -> list[float]:
        def once() -> tuple[Any, Any]:
            scratch.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            return begin, end

        def took(events: tuple[Any, Any]) -> float:
            return float(events[0].elapsed_time(events[1])) / 1e3

        for _ in range(3):
            last = once()
        torch.cuda.synchronize()
        count = min(MOST, max(LEAST, int(seconds / max(took(last), 1e-7))))
        events = [once() for _ in range(count)]
        torch.cuda.synchronize()
        return [took(each) for each in events]

    return time


def ceilings(device: torch.device, timer: Timer, *, size: int = 8192, seconds: float = 0.5) -> Any:
    """Measure what the device does at most; a copy of as many bytes as four such matrices."""
    source = torch.ones(8 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = statistics.median(timer(lambda: target.copy_(source), seconds))
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    product = statistics.median(timer(lambda: a @ b, seconds))
    return Ceilings(2 * source.nbytes / copied, 2 * size**3 / product)


def eager(model: torch.nn.Module, example: tuple) -> Call:
    """PyTorch as it is: the vendor's libraries."""
    return model


def inductor(model: torch.nn.Module, example: tuple) -> Call:
    """``torch.compile`` with all that it can do."""
    return torch.compile(model, mode="max-autotune", dynamic=False)


def ours(model: torch.nn.Module, example: tuple) -> Call:
    """The pipeline ``cuda``; what it computes is verified here."""
    host = copy.deepcopy(model).cpu(), tuple(value.cpu() for value in example)
    return mlcflow.compile(host[0], *host[1], pipeline="cuda", verify=False)


SIDES: dict[str, Callable[[torch.nn.Module, tuple], Call]] = {
    OURS: ours,
    "eager": eager,
    "inductor": inductor,
}


def measure(
    name: str,
    built: tuple[Any, tuple],
    sides: Mapping[str, Callable[[torch.nn.Module, tuple], Call]],
    device: torch.device,
    timer: Timer,
    *,
    rounds: int = 3,
    seconds: float = 1.0,
) -> Result:
    """Let each side run in turn. One that fails, or is wrong, is in the result with its reason."""
    model, args = built
    model = model.eval().requires_grad_(False) if isinstance(model, torch.nn.Module) else model
    flat = Flat(model, args, {}).to(device)
    example = draw(tuple(args), device, 0)
    with torch.no_grad():
        reference = Reference(copy.deepcopy(flat), example)
        result = Result(name, reference.work.flops, reference.work.bytes)
        calls = {side: _loaded(load, flat, example) for side, load in sides.items()}
        times: dict[str, list[float]] = {side: [] for side in sides}
        errors: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(1, rounds + 1):
            inputs = draw(example, device, number)
            expected = reference.model(*(_wide(value) for value in inputs))
            for side, call in calls.items():
                if isinstance(call, str) or side in result.failures:
                    result.failures.setdefault(side, str(call))
                    continue
                try:
                    times[side] += timer(partial(call, *inputs), seconds / rounds)
                    found = _after_poison(call, inputs)
                except Exception as error:  # whatever a side raises is what the report says
                    result.failures[side] = _short(error)
                    continue
                off = worst(found, expected, reference.work.tolerance)
                errors[side].append(off)
                if not off <= 1:
                    result.failures[side] = f"wrong: {off:.3g} times what rounding explains"
    for side in set(sides) - set(result.failures):
        taken = times[side]
        result.sides[side] = Measured(
            statistics.median(taken), min(taken), len(taken), max(errors[side])
        )
    return result


def _loaded(load: Callable[..., Call], model: torch.nn.Module, example: tuple) -> Call | str:
    """The call of a side, or why there is none."""
    try:
        call = load(model, example)
        call(*example)
        return call
    except Exception as error:
        return _short(error)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def draw(example: tuple, device: torch.device, seed: int) -> tuple[torch.Tensor, ...]:
    """Fresh inputs like those of the example, on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    return tuple(
        torch.randn(value.shape, generator=generator, device=device).to(value.dtype)
        if value.dtype.is_floating_point
        else value.to(device)[torch.randperm(len(value), generator=generator, device=device)]
        for value in example
    )


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.dtype.is_floating_point else value


def _tensors(results: Any) -> list[torch.Tensor]:
    found = results if isinstance(results, tuple | list) else (results,)
    return [value for value in found if isinstance(value, torch.Tensor)]


def _after_poison(call: Call, inputs: tuple) -> list[torch.Tensor]:
    """What a call gives whose memory may hold what is wrong: a side that writes nothing fails."""
    for value in _tensors(call(*inputs)):
        value.fill_(math.nan if value.dtype.is_floating_point else 1)
    return _tensors(call(*inputs))


def worst(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], allowed: float) -> float:
    """The largest error, in units of ``allowed`` times the largest element; infinite if not equal
    in number, shape, or where numbers are finite.
    """
    if len(found) != len(expected):
        return math.inf
    off = 0.0
    for got, want in zip(found, expected, strict=True):
        if got.shape != want.shape:
            return math.inf
        if not want.dtype.is_floating_point:
            off = max(off, 0.0 if torch.equal(got, want) else math.inf)
            continue
        finite = torch.isfinite(want)
        if not torch.equal(torch.isfinite(got), finite):
            return math.inf
        largest = float(want[finite].abs().max()) if finite.any() else 0.0
        error = float((got.double() - want)[finite].abs().max()) if finite.any() else 0.0
        off = max(off, error / (allowed * largest) if allowed * largest else error and math.inf)
    return off


def judge(mark: Mark, result: Result, most: Ceilings) -> list[Verdict]:
    """Each demand of ``mark``, compared with the medians."""
    mine = result.sides.get(OURS)
    if mine is None:
        return [Verdict("runs", result.failures.get(OURS, "not run"), False)]
    found = []
    for part, what, rate in (
        (mark.of_copy, "of copy bandwidth", result.bytes / mine.median / most.copy),
        (mark.of_matmul, "of the vendor's bf16 product", result.flops / mine.median / most.matmul),
    ):
        if part:
            found.append(Verdict(f"{part:.0%} {what}", f"{rate:.0%}", rate >= part))
    for side, limit in mark.within.items():
        other = result.sides.get(side)
        ratio = mine.median / other.median if other else math.nan
        told = f"{ratio:.2f} x" if other else "not run"
        found.append(
            Verdict(f"at most {limit:g} x {side}", told, ratio <= limit if other else None)
        )
    return found
