"""Names in a user's Python file: ``FILE.py:name``."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mlcflow.check.packages import of_import
from mlcflow.errors import MlcflowError, unknown_name


def split_name(text: str) -> tuple[Path, str] | None:
    """``FILE.py:name`` or ``FILE.py`` as path and name (empty if absent); else ``None``."""
    file, colon, name = text.rpartition(":")
    if colon and file.endswith(".py"):
        return Path(file), name
    return (Path(text), "") if text.endswith(".py") else None


def execute(path: Path) -> ModuleType:
    """Run the file and return it as a module; its folder is importable, as under ``python``.

    Raises ``click.UsageError`` when there is no such file, ``MlcflowError`` when it raises,
    ``ModuleNotFoundError`` when it needs a package of the extras of mlcflow.
    """
    if not path.is_file():
        raise click.UsageError(f"no file '{path}'")
    sys.path.insert(0, str(path.parent.absolute()))
    name = f"_file_{path.stem}"  # not the plain stem, which could hide an installed package
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file may raise anything
        if isinstance(error, ModuleNotFoundError) and of_import(error.name or ""):
            raise  # the command that installs it is known
        raise MlcflowError(describe(error, path, "running it")) from error
    return module


def member(module: ModuleType, path: Path, name: str) -> object:
    """What the file calls ``name``. Raises ``click.UsageError`` when there is no such name."""
    if not hasattr(module, name):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise click.UsageError(unknown_name("name", name, known, of=str(path)))
    return getattr(module, name)


def call(function: Callable[..., object], path: Path, *args: Any, **kwargs: Any) -> Any:
    """Call a function of the file. Raises ``MlcflowError`` when it raises."""
    try:
        return function(*args, **kwargs)
    except MlcflowError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        name = getattr(function, "__name__", type(function).__name__)
        raise MlcflowError(describe(error, path, f"calling {name}()")) from error


def describe(error: BaseException, path: Path, action: str) -> str:
    """What the user's code raised, with the last line of the user's own file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path.absolute() or frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.lineno is not None:
        lines.append(error.lineno)
    where = f"{path}:{lines[-1]}" if lines else str(path)
    return f"{where}: {action} raised {type(error).__name__}: {error}"


def near(where: str) -> str:
    """``FILE:LINE``, files below the current folder by their path from here."""
    return where.replace(f"{Path.cwd()}{os.sep}", "")
