"""``torch.compile`` with all that it can do on a processor. Needs a C++ compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor.config as inductor_config

from mlcflow.bench.sides import Loaded
from mlcflow.errors import MlcflowError
from mlcflow.tools.model_file import as_array, as_tensors

VERSION = torch.__version__


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """Weights frozen, kernels tuned; nothing taken from inductor's caches."""
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise MlcflowError("needs a C++ compiler, and there is no g++ or clang++")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    inductor_config.freezing = True
    inductor_config.force_disable_caches = True  # or its compile time would mean nothing
    compiled = torch.compile(model, mode="max-autotune", dynamic=False)
    compiled(*example)

    def bind(inputs: list[np.ndarray]) -> Any:
        tensors = as_tensors(inputs)
        return lambda: compiled(*tensors)

    return Loaded(bind, lambda results: [as_array(each) for each in results])
