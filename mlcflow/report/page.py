"""Everything about one compiled model, for one page: see :func:`gather`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcflow import mlir
from mlcflow.atomic import write_whole
from mlcflow.check.certificate import Certificate
from mlcflow.check.taps import cut_stage
from mlcflow.errors import MlcflowError, ScheduleError
from mlcflow.graph.kernel import read_kernel
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir
from mlcflow.report.memory import Memory
from mlcflow.report.nest import nest
from mlcflow.report.page_graph import Call, read_graph
from mlcflow.report.profile import Profile
from mlcflow.report.step_sizes import StepSize, of_records
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True)
class KernelSchedule:
    """How a kernel was scheduled: ``python`` repeats it; its loops before and after."""

    kernel: str
    rule: str
    python: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """What the page shows. Each of the last four may be missing; ``missing`` says why, by name."""

    model: str
    pipeline: str
    target: str
    ports: tuple[str, ...]
    steps: tuple[StepSize, ...]
    stages: Mapping[str, Mapping[str, str]]
    operations: Mapping[str, int]
    graph: tuple[Call, ...]
    schedules: tuple[KernelSchedule, ...]
    profile: Profile | None
    memory: Memory | None
    certificate: Certificate | None
    missing: Mapping[str, str]

    def to_html(self) -> str:
        """One page that needs no other file and no network. Needs ``mlcflow[report]``."""
        from mlcflow.report.page_html import as_html

        return as_html(self)

    def write(self, path: str | Path) -> Path:
        """Write the page, at once or not at all; makes the directory."""
        path = Path(path)
        text = self.to_html()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        return path


def gather(
    executable: Executable,
    args: tuple,
    kwargs: Mapping[str, Any],
    *,
    model: str,
    target: Target,
    seconds: float = 1.0,
    steps: Iterable[StepSize] | None = None,
    doing: Callable[[str], None] = lambda text: None,
) -> Page:
    """Profile and certify ``executable`` on these inputs, and read its stages.

    What cannot be had (a profile on a machine without a clock to read, a memory plan of a
    pipeline that makes none) is left out, with the reason. ``seconds``: how long calls are
    timed. ``steps``: what :func:`watched` has collected.
    """
    missing: dict[str, str] = {}

    def attempt(name: str, make: Callable[[], Any]) -> Any:
        doing(name)
        try:
            return make()
        except MlcflowError as error:
            missing[name] = str(error)
            return None

    stages = executable.stages
    return Page(
        model=model,
        pipeline=executable.pipeline.name,
        target=str(target),
        ports=tuple(map(str, [*executable.inputs, *executable.outputs])),
        steps=tuple(steps or of_records(stages)),
        stages={record.name: _functions(record.module) for record in stages.records},
        operations={record.name: record.operations for record in stages.records},
        graph=read_graph(executable),
        schedules=_schedules(executable, target),
        profile=attempt("profile", lambda: executable.profile(*args, seconds=seconds, **kwargs)),
        memory=attempt("memory", executable.memory),
        certificate=attempt("certificate", lambda: executable.certificate(*args, **kwargs)),
        missing=missing,
    )


_LARGE = 16
"""Elements of a constant from which on it is elided."""


def _functions(module: ir.Module) -> dict[str, str]:
    """The text of each function; what stands between them under the name of the module."""
    texts: dict[str, str] = {}
    others: list[str] = []
    for op in module.body.operations:
        text = str(op.operation.get_asm(large_elements_limit=_LARGE))
        if "sym_name" in op.attributes and op.operation.regions and _has_body(op):
            texts[ir.StringAttr(op.attributes["sym_name"]).value] = text
        else:
            others.append(text)
    if others:
        texts["(declarations)"] = "\n".join(others)
    return texts


def _has_body(op: ir.OpView) -> bool:
    return any(region.blocks for region in op.operation.regions)


def _schedules(executable: Executable, target: Target) -> tuple[KernelSchedule, ...]:
    """What the rules did, by applying each once more to the kernel as it was cut."""
    record = cut_stage(executable)
    if record is None:
        return ()
    from mlcflow.pipelines.schedules import cpu_rules

    module = mlir.clone(record.module)
    named, rules = _rules(executable), cpu_rules()
    found = []
    with module.context, ir.Location.unknown():
        for function in kernels(module):
            name = function.name.value
            before, rule = nest(function), named.get(name, "")
            python = _apply(function, rules.get(rule), target)
            found.append(KernelSchedule(name, rule, python, before, nest(function)))
    return tuple(found)


def _apply(function: func.FuncOp, rule: Any, target: Target) -> tuple[str, ...]:
    kernel = read_kernel(function)
    if kernel is None or rule is None:
        return ()
    try:
        schedule = rule(kernel, target)
    except ScheduleError:  # the pipeline has changed the kernel before it scheduled it
        return ()
    return tuple(map(str, schedule.trace)) if schedule is not None else ()


def _rules(executable: Executable) -> dict[str, str]:
    """The rule that scheduled each kernel."""
    return {
        function.name.value: ir.StringAttr(function.attributes["mlcflow.rule"]).value
        for record in executable.stages.records
        for function in kernels(record.module)
        if "mlcflow.rule" in function.attributes
    }
