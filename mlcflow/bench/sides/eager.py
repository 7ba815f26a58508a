"""PyTorch as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlcflow.bench.sides import Loaded
from mlcflow.tools.model_file import as_array, as_tensors

VERSION = torch.__version__


def load(model: Any, example: tuple, threads: int, folder: Path) -> Loaded:
    """The model itself, in inference mode."""
    torch.set_num_threads(threads)
    torch.inference_mode().__enter__()  # this process does nothing else

    def bind(inputs: list[np.ndarray]) -> Any:
        tensors = as_tensors(inputs)
        return lambda: model(*tensors)

    return Loaded(bind, lambda results: [as_array(each) for each in results])
