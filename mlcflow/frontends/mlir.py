"""MLIR text or bytecode as a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlcflow import mlir
from mlcflow.announce import IMPORT, PARSE, entering
from mlcflow.errors import ImportModelError
from mlcflow.failure import source_lines
from mlcflow.frontends import Imported
from mlcflow.frontends.untrusted import refuse_source
from mlcflow.mlir import ir


def import_mlir(source: str | bytes | Path, *, trusted: bool = False) -> Imported:
    """MLIR text, bytecode, or the path of a file of either, as a model.

    It must hold a public ``func.func @main``. It is parsed when the module is asked for, which
    raises ``ImportModelError``, or ``OSError`` for a file that cannot be read. One that is not
    ``trusted`` must keep to the dialects of ``mlcflow.frontends.untrusted``.
    """

    def make() -> ir.Module:
        module = read_mlir(source)
        if not trusted:
            refuse_source(module)
        return module

    return Imported(make, tell=lambda: _digest(source), trusted=trusted)


def read_mlir(source: str | bytes | Path) -> ir.Module:
    """The module of a text, of bytecode, or of a file; raises like :func:`import_mlir`."""
    entering(IMPORT, PARSE, source)
    try:
        return mlir.parse_file(source) if isinstance(source, Path) else mlir.parse(source)
    except ir.MLIRError as error:
        messages = "\n  ".join(
            f"{source_lines([str(d.location)]) or 'input'}: {d.message}"
            for d in error.error_diagnostics
        )
        raise ImportModelError(f"this is not a valid MLIR module:\n  {messages}") from error
    except (RuntimeError, ValueError) as error:  # what MLIR says of wrong bytes may be no text
        raise ImportModelError(f"this is not a valid MLIR module: {error}") from error


def _digest(source: str | bytes | Path) -> str:
    data = source.read_bytes() if isinstance(source, Path) else source
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
