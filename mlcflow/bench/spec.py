"""What the inputs of a benchmark are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spec:
    """One input: numbers like those of the example.

    Floating-point numbers are normal, with ``low`` as mean and ``high`` as standard deviation;
    integers lie between ``low`` and ``high``, both included, so that indices stay valid.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Fresh numbers."""
        import ml_dtypes  # noqa: F401  numpy then knows bfloat16

        dtype = np.dtype(self.dtype)
        if dtype.kind in "iub":
            return generator.integers(int(self.low), int(self.high) + 1, self.shape).astype(dtype)
        numbers = self.low + self.high * generator.standard_normal(self.shape)
        return np.asarray(numbers).astype(dtype)
