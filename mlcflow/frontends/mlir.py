"""MLIR text or bytecode as a model."""

from __future__ import annotations

from pathlib import Path

from mlcflow import mlir
from mlcflow.errors import ImportModelError
from mlcflow.failure import source_lines
from mlcflow.frontends import Imported
from mlcflow.mlir import ir


def import_mlir(source: str | bytes | Path) -> Imported:
    """Parse ``source``: MLIR text, bytecode, or the path of a file of either.

    The module must hold a public ``func.func @main``. Raises ``ImportModelError``.
    """
    try:
        module = mlir.parse_file(source) if isinstance(source, Path) else mlir.parse(source)
    except ir.MLIRError as error:
        messages = "\n  ".join(
            f"{source_lines([str(d.location)]) or 'input'}: {d.message}"
            for d in error.error_diagnostics
        )
        raise ImportModelError(f"this is not a valid MLIR module:\n  {messages}") from error
    return Imported(module)
