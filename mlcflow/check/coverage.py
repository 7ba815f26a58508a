"""Whether a model gets through the whole chain, and if not, everything that stops it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlcflow import mlir
from mlcflow.check.apart import Outcome, Tell, run_apart
from mlcflow.check.blockers import Blocker, remedy
from mlcflow.check.extract import extract, operations
from mlcflow.check.isolate import Limits
from mlcflow.check.program import DEFAULT
from mlcflow.check.walk import Walk, name_of, walk_stages
from mlcflow.failure import source_lines
from mlcflow.frontends.model import read_model
from mlcflow.graph.interface import normalize_interface
from mlcflow.graph.outline import kernels
from mlcflow.mlir import func, ir, walk
from mlcflow.pipeline import Pipeline

MACHINE_CODE = "machine code"
LOOPS = "loops"
"""What stands for a rule where none applies."""


@dataclass(frozen=True)
class KernelRule:
    """A kernel, the rule that schedules it (``loops``: none did), and how often it is called."""

    kernel: str
    rule: str
    calls: int


@dataclass(frozen=True)
class Coverage:
    """What became of a model: ``blockers``, the ``stages`` that it got through, its kernels.

    If there are blockers, stages and kernels are those of what is left without them.
    """

    blockers: tuple[Blocker, ...]
    stages: tuple[str, ...] = ()
    kernels: tuple[KernelRule, ...] = field(default=())

    @property
    def rules(self) -> Mapping[str, int]:
        """How many kernels each rule schedules."""
        return Counter(each.rule for each in self.kernels if each.rule)

    def as_data(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"ok": not self.blockers, **asdict(self), "rules": dict(self.rules)}


def check_coverage(
    model: Any,
    args: tuple,
    kwargs: Mapping[str, Any],
    pipeline: Pipeline,
    limits: Limits = DEFAULT,
) -> Coverage:
    """Walk the whole chain without stopping at what is refused.

    ``model`` is what ``mlcflow.compile`` takes. What the importer refuses becomes an input, and
    the rest goes on; where a stage fails, each operation is tried alone. Crashes are caught.
    """
    blockers, text = _imported(model, args, kwargs, limits)
    if not text:
        return Coverage(tuple(blockers))
    with tempfile.TemporaryDirectory() as folder:
        found = walk_stages(pipeline, text, Path(folder), limits)
        stages = ["import", *found.files] if not blockers else list(found.files)
        rules = _rules(found)
        if found.outcome.kind != "done":
            blockers += _refused_alone(text, pipeline, limits) or [_of_walk(found, pipeline)]
        else:
            last = list(found.files.values())[-1]
            refused = _machine_code(last.read_text(encoding="utf-8"), pipeline, limits)
            blockers += refused
            stages += [] if refused else [MACHINE_CODE]
    return Coverage(tuple(blockers), tuple(stages), tuple(rules))


def _imported(
    model: Any, args: tuple, kwargs: Mapping[str, Any], limits: Limits
) -> tuple[list[Blocker], str]:
    """What stands in the way of the import, and what is imported without it, as text."""

    def run(tell: Tell) -> tuple[list[dict[str, Any]], str]:
        if callable(model) or hasattr(model, "graph_signature"):
            from mlcflow.frontends.torch_coverage import as_text

            found, text = as_text(model, args, dict(kwargs))
            return [asdict(each) for each in found], text
        module = read_model(model, args, kwargs).module
        with module.context, ir.Location.unknown():
            normalize_interface(module)  # there is a @main
        return [], mlir.asm(module, locations=True)

    outcome = run_apart(run, limits)
    if outcome.kind != "done":
        stage = "parse" if isinstance(model, Path) else "import"
        return [_blocked(stage, "", outcome)], ""
    found, text = outcome.value
    return [Blocker(**{**each, "types": tuple(each["types"])}) for each in found], text


def _blocked(stage: str, operation: str, outcome: Outcome, **about: Any) -> Blocker:
    lines = [line.strip() for line in outcome.message.splitlines() if line.strip()]
    said = [line.removeprefix("mlir: ") for line in lines if line.startswith("mlir: ")]
    summary = " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else outcome.kind
    reason = "; ".join(said) or summary
    reason = reason if outcome.kind == "failed" else f"{outcome.kind}: {reason}"
    reason = reason if len(reason) <= 300 else reason[:300] + " ..."
    facts: dict[str, Any] = {"count": 1, "types": (), "where": ""} | about
    return Blocker(stage, operation, **facts, reason=reason, remedy=remedy(stage, operation))


def _of_walk(found: Walk, pipeline: Pipeline) -> Blocker:
    """The failure of the whole, if no operation fails alone."""
    step = name_of(pipeline, found.stage, found.step)
    lines = [line.strip() for line in found.outcome.message.splitlines()]
    where = [line.removeprefix("at: ") for line in lines if line.startswith("at: ")]
    return _blocked(f"{found.stage}, {step}", "", found.outcome, where="".join(where[:1]))


def _refused_alone(text: str, pipeline: Pipeline, limits: Limits) -> list[Blocker]:
    """The operations that do not get through the pipeline alone; each kind is tried once."""
    found = []
    for number, count, name, types, where in _kinds(text):

        def alone(tell: Tell, number: int = number) -> str:
            module = extract(mlir.parse(text), [number])
            with module.context, ir.Location.unknown():
                normalize_interface(module)
            return mlir.asm(module, locations=True)

        single = run_apart(alone, limits)
        if single.kind != "done":
            continue
        with tempfile.TemporaryDirectory() as folder:
            found_alone = walk_stages(pipeline, single.value, Path(folder), limits)
        if found_alone.outcome.kind != "done":
            about = {"count": count, "types": types, "where": where}
            found.append(_blocked(found_alone.stage, name, found_alone.outcome, **about))
    return found


def _kinds(text: str) -> Iterator[tuple[int, int, str, tuple[str, ...], str]]:
    """Each kind of operation of ``@main``: a number, how many, name, types, source lines."""
    seen: dict[str, list[tuple[int, ir.OpView]]] = {}
    module = mlir.parse(text)
    for number, op in enumerate(operations(module)):
        key = str(op).partition("=")[2] if op.results else str(op)
        shape = [op.operation.name, *(str(v.type) for v in [*op.operands, *op.results])]
        inside = [inner.operation.name for inner in walk(op)]
        seen.setdefault(" ".join([*shape, *inside]) or key, []).append((number, op))
    for same in seen.values():
        number, op = same[0]
        where = source_lines(str(each.location) for _, each in same)
        inner = [i.operation.name for i in walk(op) if not i.operation.name.endswith(".yield")]
        name = op.operation.name + (f" of {', '.join(dict.fromkeys(inner))}" if inner else "")
        yield number, len(same), name, tuple(str(v.type) for v in op.operands), where


def _rules(found: Walk) -> list[KernelRule]:
    """The kernels of the last module on tensors, or before it, that says by which rule."""
    best: list[KernelRule] = []
    for path in found.files.values():
        module = mlir.parse(path.read_text(encoding="utf-8"))
        calls = Counter(
            op.callee.value for op in walk(module.operation) if isinstance(op, func.CallOp)
        )
        rules = [KernelRule(f.name.value, _rule(f), calls[f.name.value]) for f in kernels(module)]
        if rules and (not best or not any(each.rule for each in best)):
            best = rules
        if any(each.rule for each in best):
            break
    return best


def _rule(function: func.FuncOp) -> str:
    name = "mlcflow.rule"
    return ir.StringAttr(function.attributes[name]).value if name in function.attributes else ""


def _machine_code(text: str, pipeline: Pipeline, limits: Limits) -> list[Blocker]:
    """What LLVM, or the loader, says of the last module; of code for this machine only."""
    if pipeline.name == "cuda" or "gpu." in text:
        return []

    def run(tell: Tell) -> int:
        from mlcflow.runtime.machine_code import compile_object

        return len(compile_object(mlir.parse(text), 0))

    outcome = run_apart(run, limits)
    return [] if outcome.kind == "done" else [_blocked(MACHINE_CODE, "", outcome)]
