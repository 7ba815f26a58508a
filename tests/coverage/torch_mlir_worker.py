"""The tests of a torch-mlir checkout, and the process that runs them one by one.

As a program it takes the checkout and the pipeline, then reads a name a line from standard
input and writes a line of JSON for each: ``kind``, ``detail`` and ``random``.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

SUITE = "torch_mlir_e2e_test"
XFAIL_SETS = ("FX_IMPORTER_XFAIL_SET", "FX_IMPORTER_CRASHING_SET")


def load_tests(checkout: Path) -> dict[str, Any]:
    """The registered tests by name, in the order of the suite.

    A file of the suite that cannot be imported here is named on standard error.
    """
    source = checkout / "projects" / "pt1" / "python"
    if not (source / SUITE).is_dir():
        raise SystemExit(f"{checkout}: expected a checkout of torch-mlir, found no {SUITE}")
    _provide_imports()
    sys.path.append(str(source))
    importlib.import_module(f"{SUITE}.test_suite")
    for path in sorted((source / SUITE / "test_suite").glob("[!_]*.py")):
        try:
            importlib.import_module(f"{SUITE}.test_suite.{path.stem}")
        except (ImportError, OSError) as error:
            print(f"skipped {path.name}: {error}", file=sys.stderr)
    registry = importlib.import_module(f"{SUITE}.registry").GLOBAL_TEST_REGISTRY
    return {test.unique_name: test for test in registry}


def expected_failures(checkout: Path) -> set[str]:
    """The tests on which torch-mlir expects its FX importer and reference backend to fail."""
    path = checkout / "projects" / "pt1" / "e2e_testing" / "xfail_sets.py"
    spec = importlib.util.spec_from_file_location("xfail_sets", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set().union(*(getattr(module, name) for name in XFAIL_SETS))


def _provide_imports() -> None:
    """Stand in for the packages that the suite imports and its tests hardly use."""
    import multiprocessing

    import torch
    from torch.torch_version import TorchVersion

    sys.modules["multiprocess"] = multiprocessing
    version = types.ModuleType("torch_mlir._version")
    version.version = types.SimpleNamespace(parse=TorchVersion)
    version.torch_version_for_comparison = lambda: torch.__version__
    sys.modules["torch_mlir._version"] = version
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.models", "torchvision.ops"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision"].models = sys.modules["torchvision.models"]
        sys.modules["torchvision"].ops = sys.modules["torchvision.ops"]


def run_test(test: Any, pipeline: str) -> dict[str, Any]:
    """Compile the module of ``test`` for each of its calls, and compare with PyTorch."""
    import torch

    from mlcflow.errors import ExecutionError, ImportModelError, LoweringError, VerificationError

    framework = importlib.import_module(f"{SUITE}.framework")
    random = False
    try:
        with torch.no_grad():
            trace = framework.generate_golden_trace(test)
            calls = [(test.program_factory(), item.inputs) for item in trace]
            random = any(_is_random(*call) for call in calls)
    except Exception as error:
        return _outcome("eager", error)
    kinds = {
        ImportModelError: "import",
        LoweringError: "lowering",
        ExecutionError: "execution",
        VerificationError: "wrong",
    }
    try:
        for model, inputs in calls:
            _check_call(model, tuple(inputs), pipeline, random)
    except Exception as error:
        return _outcome(kinds.get(type(error), "error"), error, random)
    return {"kind": "passed", "detail": "", "random": random}


def _outcome(kind: str, error: Exception, random: bool = False) -> dict[str, Any]:
    detail = str(error)
    if kind in ("eager", "error"):
        detail = "".join(traceback.format_exception_only(error)).strip()
    if kind == "error":
        detail += "\n" + "".join(traceback.format_tb(error.__traceback__))
    return {"kind": kind, "detail": detail, "random": random}


def _is_random(model: Any, inputs: list) -> bool:
    """Whether two calls of the original give different results."""
    from mlcflow.check.compare import compare
    from mlcflow.errors import VerificationError

    try:
        compare(_leaves(_call(model, inputs)), _leaves(_call(model, inputs)))
    except VerificationError:
        return True
    return False


def _check_call(model: Any, inputs: tuple, pipeline: str, random: bool) -> None:
    """Raise ``VerificationError`` unless the compiled model does what the original does."""
    import torch
    from torch.utils import _pytree as pytree

    import mlcflow
    from mlcflow.check.compare import compare
    from mlcflow.errors import VerificationError

    ours, theirs = copy.deepcopy(inputs), copy.deepcopy(inputs)
    executable = mlcflow.compile(model, *inputs, pipeline=pipeline, verify=False)
    with torch.no_grad():
        expected = copy.deepcopy(model)(*theirs)
    actual = executable(*ours)
    if pytree.tree_structure(actual) != pytree.tree_structure(expected):
        raise VerificationError(f"expected {type(expected)}, got {type(actual)}")
    for a, e in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        if type(a) is not type(e):
            raise VerificationError(f"expected a {type(e).__name__}, got a {type(a).__name__}")
    for pair in ((actual, expected), (ours, theirs)):
        mine, other = map(_leaves, pair)
        if random:
            mine, other = _zeros(mine), _zeros(other)
        compare(mine, other)


def _call(model: Any, inputs: list) -> Any:
    return copy.deepcopy(model)(*copy.deepcopy(inputs))


def _zeros(leaves: list) -> list:
    """The same shapes and element types, without the values."""
    import torch

    return [torch.zeros_like(x) if isinstance(x, torch.Tensor) else type(x)(0) for x in leaves]


def _leaves(tree: Any) -> list:
    """The arrays and numbers of a structure."""
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None]


def main() -> None:
    """Serve names from standard input until it closes."""
    checkout, pipeline = Path(sys.argv[1]), sys.argv[2]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tests print is not an answer
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    tests = load_tests(checkout)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_test(tests[line.strip()], pipeline)), file=answers, flush=True)


if __name__ == "__main__":
    main()
