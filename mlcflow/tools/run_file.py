"""Compiling and running the model of a file, for ``mlcflow run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

import mlcflow
from mlcflow.check.compare import compare
from mlcflow.check.verify import check_executable
from mlcflow.errors import unknown_name
from mlcflow.examples import EXAMPLES
from mlcflow.report.progress import compile_and_tell
from mlcflow.report.timing import time_calls
from mlcflow.runtime.executable import Executable
from mlcflow.tools.model_file import (
    as_tensors,
    check_inputs,
    load_model,
    make_inputs,
    read_arrays,
    states_shapes,
    write_arrays,
)
from mlcflow.tools.options import parse_pipeline
from mlcflow.tools.python_file import split_name

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Model:
    """What to compile, and what to call it with."""

    source: Any
    args: tuple
    kwargs: Mapping[str, Any]

    @property
    def torch(self) -> bool:
        """Whether it is a model of PyTorch, which example inputs give its shapes."""
        return not states_shapes(self.source)


def run_file(text: str, say: Say, given: dict[str, Any]) -> dict[str, Any]:
    """Compile and run the model that ``text`` names, as the options ``given`` ask.

    ``say`` receives what there is to read; the result is the same as data for JSON.
    """
    if given["quick"]:
        raise click.UsageError("--quick is for the built-in examples")
    usual = "cuda" if given["target"].startswith("cuda") else "cpu"
    pipeline = parse_pipeline(given["pipeline"] or usual, given["target"], given["options"])
    model = find_model(text, given["inputs"])
    say(f"{text}: pipeline '{pipeline.name}', target {given['target']}")
    if getattr(model.source, "training", False):
        say("note: the model is in training mode; call model.eval() for inference")
    dump_dir = Path(given["dump_dir"]) if given["dump_dir"] else None
    example = (model.args, model.kwargs) if model.torch else ((), {})
    asked = {"isolate": given["limits"] or False, "trusted": given["trusted"]}
    executable, report = compile_and_tell(
        model.source, *example, pipeline, say, dump_dir=dump_dir, **asked
    )
    if given["threads"]:
        executable.threads = given["threads"]
    if not model.torch and not model.args and not model.kwargs:
        model = replace(model, args=tuple(make_inputs(executable.inputs)))
    results = _leaves(executable(*model.args, **model.kwargs), model.torch)
    shapes = [_shape(result) for result in results]
    say("\n".join(f"result {number}: {shape}" for number, shape in enumerate(shapes)))
    report |= {"model": text, "target": given["target"], "results": shapes}
    report["verified"] = None if given["no_verify"] else _verify(executable, model, given, say)
    if given["repeat"]:
        times = time_calls(lambda: executable(*model.args, **model.kwargs), given["repeat"])
        say(f"time: {times}")
        report["call_seconds"] = asdict(times)
    if given["memory"]:
        memory = executable.memory()
        say(f"memory:\n{memory}")
        report["memory"] = memory.as_data()
    if given["outputs"]:
        write_arrays(given["outputs"], results)
    return report


def find_model(text: str, files: tuple[str, ...]) -> _Model:
    """The model that ``text`` names, with the arrays in ``files``, or those that it brings."""
    arrays = read_arrays(files)
    python = split_name(text)
    if python:
        found, args, kwargs = load_model(*python)
        if arrays:
            args, kwargs = tuple(arrays) if states_shapes(found) else as_tensors(arrays), {}
        if not states_shapes(found):
            check_inputs(found, args, kwargs, python[0])
        return _Model(found, args, kwargs)
    if not Path(text).is_file():
        if Path(text).suffix:
            raise click.UsageError(f"no file '{text}'")
        raise click.UsageError(unknown_name("example", text, EXAMPLES))
    return _Model(Path(text), tuple(arrays), {})


def _verify(executable: Executable, model: _Model, given: dict[str, Any], say: Say) -> str | None:
    """Compare with the original; returns what that was, ``None`` if there is none."""
    if model.torch:
        check_executable(executable, model.source, model.args, dict(model.kwargs))
        original = "PyTorch"
    elif executable.pipeline.name == "reference":
        return None  # nothing to compare with
    else:
        asked = {"isolate": given["limits"] or False, "trusted": given["trusted"]}
        target = "host" if given["target"].startswith("cuda") else given["target"]
        reference = mlcflow.compile(model.source, target=target, pipeline="reference", **asked)
        actual = executable(*model.args, **model.kwargs)
        expected = reference(*model.args, **model.kwargs)
        compare(_leaves(actual, False), _leaves(expected, False))
        original = "pipeline 'reference'"
    say(f"verified: the results are those of {original}")
    return original


def _leaves(results: Any, torch: bool) -> list[Any]:
    """The results without the structure that the model gives them."""
    if not torch:
        return list(results) if isinstance(results, tuple) else [results]
    from torch.utils import _pytree as pytree

    leaves: list[Any] = pytree.tree_leaves(results)
    return leaves


def _shape(value: Any) -> str:
    """``float32[1x10]``, or the name of a Python type."""
    if not hasattr(value, "shape"):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')}[{'x'.join(map(str, value.shape))}]"
