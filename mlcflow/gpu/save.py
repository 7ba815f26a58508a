"""A compiled model as a folder that a machine with nothing but Python, numpy and the driver runs.

==================  ===============================================================
``program.json``    ports and launches of ``@main`` and ``@prepare``, messages
``kernels.ptx``     the kernels
``tensors.safetensors``  parameters and constants, by name
``host.mlir``       the host code in the LLVM dialect, to read
``loader.py``       ``python loader.py x.npy``, or ``from loader import load``
==================  ===============================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mlcflow.atomic import whole_file
from mlcflow.errors import ExecutionError
from mlcflow.gpu.device import without_kernels
from mlcflow.gpu.device_memory import CONSTANTS
from mlcflow.gpu.host_calls import BIND, shared_of
from mlcflow.gpu.loader import FORMAT
from mlcflow.gpu.ptx import ptx_of
from mlcflow.gpu.record import Recorder
from mlcflow.mlir import asm, ir
from mlcflow.runtime.dtypes import is_tensor
from mlcflow.runtime.frame import Layout
from mlcflow.runtime.interface import Port
from mlcflow.runtime.machine_code import MachineCode, describe

_SAFE = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""How safetensors calls element types."""


def save(module: ir.Module, parameters: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write a model to ``folder``, which is made if need be; gives the files.

    ``module`` is what the last stage of the pipeline ``cuda`` left. No GPU is needed. Raises
    ``ExecutionError`` for a model whose shapes are open, whose course depends on data, or that
    writes to its inputs or parameters.
    """
    functions, messages, _ = describe(module)
    ports = [port for ports in functions.values() for port in ports]
    changed = [port.name for port in ports if port.role == "mutates"]
    if changed:
        raise ExecutionError(f"the model writes to '{changed[0]}'; such models cannot be saved")
    program = {
        "format": FORMAT,
        "messages": messages,
        "functions": _record(module, functions),
    }
    tensors = _constants(module)
    tensors |= {p.name: (p, parameters[p.name]) for p in ports if p.role == "parameter"}
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    loader = resources.files("mlcflow.gpu").joinpath("loader.py").read_bytes()
    written = {
        "loader.py": [loader],
        "kernels.ptx": [ptx_of(module).encode() + b"\0"],
        "host.mlir": [asm(without_kernels(module)).encode()],
        "tensors.safetensors": _safetensors(tensors),
        "program.json": [(json.dumps(program, indent=1) + "\n").encode()],
    }
    for name, pieces in written.items():
        _write(place / name, *pieces)
    return [place / name for name in written]


def _record(module: ir.Module, functions: Mapping[str, list[Port]]) -> dict[str, Any]:
    """The ports and launches of each entry function."""
    code = MachineCode(without_kernels(module), 0, lambda number: None, lambda error: None)
    recorder = Recorder(list(shared_of(module)))
    recorder.bind(code.entry(BIND))
    found = {}
    for name, ports in functions.items():
        try:
            launches = recorder.run(code.entry(name), Layout(ports))
        except ExecutionError as error:
            raise ExecutionError(f"the model cannot be saved: {error}") from error
        kept = ("role", "name", "dtype", "shape")
        known = [{key: getattr(port, key) for key in kept} for port in ports]
        found[name] = {"ports": known, "launches": launches}
    return found


def _constants(module: ir.Module) -> dict[str, tuple[Port, Any]]:
    """Constant arrays of the host code, each with what it is."""
    attributes, found = module.operation.attributes, {}
    if CONSTANTS in attributes:
        for entry in ir.DictAttr(attributes[CONSTANTS]):
            array = np.ascontiguousarray(ir.DenseElementsAttr(entry.attr))
            port = Port("constant", entry.name, array.dtype.name, array.shape)
            found[entry.name] = (port, array)
    return found


def _safetensors(tensors: Mapping[str, tuple[Port, Any]]) -> list[bytes]:
    """The pieces of a safetensors file."""
    header, pieces, end = {}, [], 0
    for name, (port, value) in tensors.items():
        pieces.append(_bytes(value))
        begin, end = end, end + len(pieces[-1])
        header[name] = {
            "dtype": _SAFE[port.dtype],
            "shape": list(port.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *pieces]


def _bytes(value: Any) -> bytes:
    if is_tensor(value):
        import torch

        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(value).tobytes()


def _write(path: Path, *pieces: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    with whole_file(path) as stream:
        stream.writelines(pieces)
