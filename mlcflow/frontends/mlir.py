"""MLIR text or bytecode as a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlcflow import mlir
from mlcflow.announce import IMPORT, PARSE, entering
from mlcflow.errors import ImportModelError
from mlcflow.failure import source_lines
from mlcflow.frontends import Imported
from mlcflow.mlir import ir


def import_mlir(source: str | bytes | Path) -> Imported:
    """MLIR text, bytecode, or the path of a file of either, as a model.

    It must hold a public ``func.func @main``. It is parsed when the module is asked for, which
    raises ``ImportModelError``, or ``OSError`` for a file that cannot be read.
    """
    return Imported(lambda: _parse(source), tell=lambda: _digest(source))


def _parse(source: str | bytes | Path) -> ir.Module:
    entering(IMPORT, PARSE, source)
    try:
        return mlir.parse_file(source) if isinstance(source, Path) else mlir.parse(source)
    except ir.MLIRError as error:
        messages = "\n  ".join(
            f"{source_lines([str(d.location)]) or 'input'}: {d.message}"
            for d in error.error_diagnostics
        )
        raise ImportModelError(f"this is not a valid MLIR module:\n  {messages}") from error


def _digest(source: str | bytes | Path) -> str:
    data = source.read_bytes() if isinstance(source, Path) else source
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
