"""Runs a saved model on a GPU of NVIDIA. Needs Python, numpy and the driver, nothing else.

    from loader import load
    model = load("folder")         # the folder that holds this file, by default
    y = model(x)                   # numpy in, numpy out

or ``python loader.py x.npy``, which writes ``output0.npy``. Results of several arrays are a list;
bfloat16 is numpy's if ``ml_dtypes`` is installed, else its bits as uint16.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 2
_MOST_DYNAMIC_SHARED_BYTES, _SHARED_PERCENT = 8, 9  # CUfunction_attribute
_LIBRARIES = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")


class LoadError(Exception):
    """The model cannot be loaded or run; says what was expected and found."""


class Driver:
    """The first GPU, through the functions of ``library``; addresses are integers."""

    def __init__(self, library: Any = None) -> None:
        self._library = library or _open()
        self("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.context = context

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver; raises ``LoadError`` under the driver's own name."""
        function = getattr(self._library, name, None)
        if function is None:
            raise LoadError(f"the driver is too old: it has no {name}")
        code = function(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
            raise LoadError(f"{name}: {(text.value or b'error').decode()} ({code})")

    def enter(self) -> None:
        """Let the calling thread work with the device."""
        self("cuCtxSetCurrent", self.context)

    def allocate(self, nbytes: int) -> int:
        """Memory on the device."""
        pointer = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(1, nbytes)))
        return pointer.value

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device."""
        if array.nbytes:
            source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, None)

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the device into ``array``, which holds it after :meth:`wait`."""
        if array.nbytes:
            to, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self("cuMemcpyDtoHAsync_v2", to, ctypes.c_uint64(address), size, None)

    def wait(self) -> None:
        """Wait for everything that was asked of the device."""
        self("cuStreamSynchronize", None)


def _open() -> Any:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise LoadError(f"no driver for NVIDIA GPUs on this machine ({' or '.join(_LIBRARIES)})")


class Model:
    """A saved model on the device. One call at a time.

    ``inputs`` and ``outputs`` describe the arrays: name, dtype, shape.
    """

    def __init__(self, folder: Path, driver: Driver) -> None:
        self._driver = driver
        program = json.loads((folder / "program.json").read_text(encoding="utf-8"))
        if program["format"] != FORMAT:
            raise LoadError(f"format {program['format']}; this loader reads format {FORMAT}")
        self._messages = program["messages"]
        driver.enter()
        self._module = ctypes.c_void_p()
        text = (folder / "kernels.ptx").read_bytes()
        source = ctypes.byref(self._module), ctypes.c_char_p(text)
        driver("cuModuleLoadDataEx", *source, ctypes.c_uint(0), None, None)
        tensors = read_tensors(folder / "tensors.safetensors")
        self._held: dict[str, int] = {}
        for name, array in tensors.items():
            self._held[name] = driver.allocate(array.nbytes)
            driver.upload(self._held[name], array)
        driver.wait()
        if "prepare" in program["functions"]:
            self._run(_Function(self, program["functions"]["prepare"], keep=True))
        self._main = _Function(self, program["functions"]["main"])
        ports = program["functions"]["main"]["ports"]
        self.inputs = [port for port in ports if port["role"] == "input"]
        self.outputs = [port for port in ports if port["role"] == "output"]

    def place(self, port: dict[str, Any], *, keep: bool) -> int:
        """Memory for a port: what is held under its name, or new."""
        if port["role"] in ("parameter", "constant", "prepared") and port["name"] in self._held:
            return self._held[port["name"]]
        address = self._driver.allocate(_nbytes(port))
        if keep and port["role"] == "prepared":
            self._held[port["name"]] = address
        return address

    def kernel(self, name: str, shared: int) -> ctypes.c_uint64:
        """The handle of a kernel whose launches bring so many bytes of shared memory."""
        function = ctypes.c_void_p()
        found = ctypes.byref(function), self._module, ctypes.c_char_p(name.encode())
        self._driver("cuModuleGetFunction", *found)
        if shared:
            for number, value in ((_MOST_DYNAMIC_SHARED_BYTES, shared), (_SHARED_PERCENT, 100)):
                numbers = ctypes.c_int(number), ctypes.c_int(value)
                self._driver("cuFuncSetAttribute", function, *numbers)
        return ctypes.c_uint64(function.value or 0)

    def encode(self, address: int, known: dict[str, Any]) -> ctypes.Array:
        """The tensor map of the array at ``address``."""
        found = (ctypes.c_ubyte * 192)()  # 128 of which begin at a multiple of 64
        longs = [(ctypes.c_uint64 * 5)(*known[name]) for name in ("dims", "strides")]
        shorts = [(ctypes.c_uint * 5)(*known[name]) for name in ("box", "steps")]
        kind, rank = ctypes.c_uint(known["data_type"]), ctypes.c_uint(len(known["dims"]))
        place = ctypes.c_void_p(_place(found))
        kinds = map(ctypes.c_uint, known["kinds"])
        whole = place, kind, rank, ctypes.c_void_p(address), *longs, *shorts, *kinds
        self._driver("cuTensorMapEncodeTiled", *whole)
        return found

    def __call__(self, *arrays: np.ndarray) -> Any:
        """Run the model. Raises ``LoadError`` for arguments that do not fit."""
        if len(arrays) != len(self.inputs):
            raise LoadError(f"expected {len(self.inputs)} arrays, got {len(arrays)}")
        self._driver.enter()
        kept = [_checked(a, port) for a, port in zip(arrays, self.inputs, strict=True)]
        for address, array in zip(self._main.of_role("input"), kept, strict=True):
            self._driver.upload(address, array)
        self._run(self._main)
        results = [np.empty(port["shape"], _dtype(port["dtype"])) for port in self.outputs]
        for address, array in zip(self._main.of_role("output"), results, strict=True):
            self._driver.download(array, address)
        self._driver.wait()
        return results[0] if len(results) == 1 else results

    def _run(self, function: _Function) -> None:
        status = function.of_role("status")
        for address in status:
            self._driver.upload(address, np.zeros(1, np.int32))
        for handle, sizes, arguments in function.launches:
            self._driver("cuLaunchKernel", handle, *sizes, None, arguments.pointers, None)
        found = [np.zeros(1, np.int32) for _ in status]
        for address, number in zip(status, found, strict=True):
            self._driver.download(number, address)
        self._driver.wait()
        for number in found:
            if number[0]:
                raise LoadError(f"the model's own check failed: {self._messages[number[0] - 1]}")


class _Arguments:
    """What a kernel takes, words or tensor maps, and where they lie."""

    def __init__(self, values: list[int | ctypes.Array]) -> None:
        self._held = [ctypes.c_uint64(v) if isinstance(v, int) else v for v in values]
        self.pointers = (ctypes.c_void_p * max(1, len(values)))(*map(_place, self._held))


def _place(held: Any) -> int:
    """Where an argument begins: a tensor map at a multiple of 64 bytes."""
    address = ctypes.addressof(held)
    return address if isinstance(held, ctypes.c_uint64) else -(-address // 64) * 64


class _Function:
    """The launches of an entry function, their arguments at addresses of the device."""

    def __init__(self, model: Model, known: dict[str, Any], *, keep: bool = False) -> None:
        self._ports = known["ports"]
        self._addresses = [model.place(port, keep=keep) for port in self._ports]
        self.launches = [
            (
                model.kernel(launch["kernel"], launch["shared"]),
                [ctypes.c_uint(n) for n in (*launch["grid"], *launch["block"], launch["shared"])],
                _Arguments([self._argument(model, word) for word in launch["words"]]),
            )
            for launch in known["launches"]
        ]

    def _word(self, word: int | list[int]) -> int:
        """A number, or a port and an offset in it."""
        return word if isinstance(word, int) else self._addresses[word[0]] + word[1]

    def _argument(self, model: Model, word: int | list[int] | dict[str, Any]) -> Any:
        """A word, or the bytes of a tensor map."""
        if not isinstance(word, dict):
            return self._word(word)
        return model.encode(self._word(word["array"]), word)

    def of_role(self, role: str) -> list[int]:
        """Where the ports of a role lie."""
        pairs = zip(self._ports, self._addresses, strict=True)
        return [address for port, address in pairs if port["role"] == role]


def _nbytes(port: dict[str, Any]) -> int:
    return math.prod(port["shape"]) * _dtype(port["dtype"]).itemsize


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            return np.dtype(np.uint16)
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _checked(array: np.ndarray, port: dict[str, Any]) -> np.ndarray:
    """The array, contiguous, if it is what the port takes."""
    array = np.asarray(array)
    expected = _dtype(port["dtype"])
    if array.dtype != expected or list(array.shape) != port["shape"]:
        raise LoadError(
            f"input '{port['name']}': expected {expected}{port['shape']}, "
            f"got {array.dtype}{list(array.shape)}"
        )
    return np.ascontiguousarray(array)


_SAFE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by name. Raises ``LoadError`` for another file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        known = json.loads(data[8:end])
        known.pop("__metadata__", None)
        found = {}
        for name, entry in known.items():
            first, last = entry["data_offsets"]
            raw = np.frombuffer(data[end + first : end + last], _dtype(_SAFE[entry["dtype"]]))
            found[name] = raw.reshape(entry["shape"])
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path}: not a safetensors file: {error!r}") from error


def load(folder: str | Path = Path(__file__).parent, library: Any = None) -> Model:
    """The model in ``folder``, on the first GPU. Raises ``LoadError``, ``OSError``."""
    return Model(Path(folder), Driver(library))


def main(files: list[str]) -> None:
    """Run the model on ``.npy`` files."""
    found = load()(*(np.load(file, allow_pickle=False) for file in files))
    for number, array in enumerate(found if isinstance(found, list) else [found]):
        np.save(f"output{number}.npy", array, allow_pickle=False)


if __name__ == "__main__":
    main(sys.argv[1:])
