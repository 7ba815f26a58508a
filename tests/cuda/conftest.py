"""A GPU for tests that need none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_driver import FakeDriver

import mlcflow
from mlcflow.compiler import build_pipeline, load
from mlcflow.frontends import Imported
from mlcflow.gpu import driver
from mlcflow.graph.interface import normalize_interface
from mlcflow.mlir import clone, ir

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))  # test_operations, whose cases we run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """The driver of this machine, for one test: see ``fake_driver``."""
    fake = FakeDriver()
    monkeypatch.setattr(driver, "load_library", lambda: fake)
    driver.open_driver.cache_clear()
    yield fake
    driver.open_driver.cache_clear()


@pytest.fixture
def build(gpu: FakeDriver) -> Callable[..., Any]:
    """``mlcflow.compile`` for the fake GPU, whose kernels it takes along."""
    pytest.importorskip("llvmlite")

    def compile(model: Any, *inputs: Any, **options: Any) -> Any:
        options = {"target": "cuda:sm_90", "pipeline": "cuda", "verify": False} | options
        return mlcflow.compile(model, *inputs, on_stage=gpu.on_stage, **options)

    return compile


@pytest.fixture
def run_program(gpu: FakeDriver) -> Callable[..., Any]:
    """Lower a program as its schedule left it, load it on the fake GPU, and call it."""
    pytest.importorskip("llvmlite")

    def run(module: ir.Module, *inputs: Any) -> Any:
        program = clone(module)
        with program.context, ir.Location.unknown():
            normalize_interface(program)
        pipeline = build_pipeline("cuda", "cuda:sm_90")
        loaded = load(Imported(program), pipeline, start="bufferize", on_stage=gpu.on_stage)
        return loaded(*inputs)

    return run
