"""mlcflow's pipeline ``cpu``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import mlcflow
from mlcflow.bench.sides import Loaded

VERSION = mlcflow.__version__


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """Compiled for this processor; what it computes is verified by the benchmark."""
    target = replace(mlcflow.Target.host(), cores=threads)

    def compile_model() -> mlcflow.Executable:
        # Of an empty cache at first, as if the model were new to this machine.
        return mlcflow.compile(model, *example, target=target, verify=False, cache=folder)

    executable = compile_model()

    def bind(inputs: list[np.ndarray]) -> Any:
        return lambda: executable(*inputs)

    return Loaded(bind, list, again=lambda: compile_model()(*example))
