"""The sides of a benchmark: ours and the peers, a file each.

The module of a side imports its packages at the top, so that a process knows what it costs
without a model, and defines ``load(model, example, threads, folder) -> Loaded`` and
``VERSION``. What it writes goes into the empty ``folder``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

OURS = "mlcflow"
REFERENCE = "reference"

SIDES = {
    OURS: "mlcflow.bench.sides.ours",
    "eager": "mlcflow.bench.sides.eager",
    "inductor": "mlcflow.bench.sides.inductor",
    "onnxruntime": "mlcflow.bench.sides.onnx_runtime",
    "openvino": "mlcflow.bench.sides.open_vino",
    "iree": "mlcflow.bench.sides.iree_cpu",
    "tvm": "mlcflow.bench.sides.tvm_cpu",
}
"""The module of each side."""

PEERS = tuple(name for name in SIDES if name != OURS)


@dataclass(frozen=True)
class Loaded:
    """A model, compiled by a side.

    ``bind`` takes the inputs and gives the call that is timed; it does what a user would do
    once, ahead of many calls. ``arrays`` turns what the call gave into numpy arrays, which
    are the memory of the results where the side allows it. ``again`` compiles the same model
    once more as a later process would, from what the side keeps on disk, and calls it.
    """

    bind: Callable[[list[np.ndarray]], Callable[[], Any]]
    arrays: Callable[[Any], list[np.ndarray]]
    again: Callable[[], object] | None = None
