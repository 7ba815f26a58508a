"""What comes back from the process that compiled: a program, and parameters that are new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlcflow.runtime.dtypes import is_tensor

_LENGTH = 8


@dataclass(frozen=True)
class Parcel:
    """``program``: its bytes, none if it is not stored. ``parameters``: torch tensors by name.

    These are the constants that lowering added; others are where they always were.
    """

    program: bytes
    parameters: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """One block of bytes: the length of the JSON, the JSON, the program, the tensors."""
        known, parts = [], [self.program]
        for name, value in self.parameters.items():
            assert is_tensor(value), "lowering adds constants of PyTorch only"
            data = _raw(value)
            dtype = str(value.dtype).removeprefix("torch.")
            known.append([name, dtype, list(value.shape), len(data)])
            parts.append(data)
        text = json.dumps({"program": len(self.program), "parameters": known}).encode()
        return b"".join([len(text).to_bytes(_LENGTH, "little"), text, *parts])

    @staticmethod
    def from_bytes(data: bytes) -> Parcel:
        """What ``to_bytes`` gave."""
        start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
        known = json.loads(data[_LENGTH:start])
        program = data[start : start + known["program"]]
        start += known["program"]
        parameters = {}
        for name, dtype, shape, size in known["parameters"]:
            parameters[name] = _tensor(data[start : start + size], dtype, shape)
            start += size
        return Parcel(program, parameters)


def _raw(tensor: Any) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes())


def _tensor(data: bytes, dtype: str, shape: list[int]) -> Any:
    import torch

    kind = getattr(torch, dtype)
    if not data:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape)
