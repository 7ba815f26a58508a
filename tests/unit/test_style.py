"""The rules of the code itself: linters, types, sizes, and who may import what."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for room in ("mlcflow", "dialects", "pipelines") for path in (ROOT / room).rglob("*.py")
)
FILE_LINES, FUNCTION_LINES = 300, 50
# The importer of torch-mlir needs PyTorch, which mlcflow.mlir must not load.
NEEDS_TORCH = "torch_mlir.extras.fx_"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(command: tuple[str, ...]) -> None:
    result = run(sys.executable, "-m", "ruff", *command, ".")
    assert result.returncode == 0, result.stdout + result.stderr


def test_types(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Checked in a copy where dialects/ and pipelines/ lie as they are imported."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mlcflow", tmp_path / "mlcflow", ignore=ignore)
    for room in ("dialects", "pipelines"):
        shutil.copytree(ROOT / room, tmp_path / "mlcflow" / room, ignore=ignore)
    cache = request.config.cache.mkdir("mypy")
    options = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={cache}"]
    result = run(sys.executable, "-m", "mypy", *options, "-p", "mlcflow", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"in {len(SOURCES)} source files" in result.stdout, "some files are not checked"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"


def public(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    """The public functions and classes of a module, and the methods of those classes.

    A method that overrides one of a library says what that says.
    """
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield child.name, child
            if isinstance(child, ast.ClassDef) and not child.bases:
                yield from ((f"{child.name}.{inner}", n) for inner, n in public(child))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [label for label, node in public(tree) if not ast.get_docstring(node)]
    if tree.body and not ast.get_docstring(tree):
        missing.append("the module")
    assert not missing


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_one_module_imports_the_bindings() -> None:
    found = {
        (name(path), module)
        for path in SOURCES
        for module in imports(path)
        if module.split(".")[0] == "torch_mlir" and name(path) != "mlcflow/mlir.py"
    }
    allowed = {
        (path, module)
        for path, module in found
        if module.startswith(NEEDS_TORCH) and path.startswith("mlcflow/frontends/torch")
    }
    assert found == allowed


def test_one_module_reads_the_environment() -> None:
    readers = {
        name(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv"))
    }
    assert readers <= {"mlcflow/config.py"}


def test_nothing_is_pickled_and_no_shell_is_started() -> None:
    for path in SOURCES:
        assert not {"pickle", "marshal", "shelve"} & set(imports(path)), name(path)
        assert "shell=True" not in path.read_text(encoding="utf-8"), name(path)


@pytest.mark.parametrize("package", ["dialects", "pipelines"])
def test_a_bare_import_raises(package: str) -> None:
    result = run(sys.executable, "-c", f"import {package}")
    assert result.returncode == 1 and f"as 'mlcflow.{package}'" in result.stderr


PROBE = "import sys; {0}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {{{1}}}))"


@pytest.mark.parametrize(
    ("statement", "modules", "loaded"),
    [
        ("import mlcflow", "'torch', 'torch_mlir', 'mlir'", "[]"),
        ("import mlcflow.tools", "'torch', 'torch_mlir', 'mlir'", "[]"),
        ("import mlcflow.compiler", "'torch', 'torch_mlir', 'mlir'", "['torch_mlir']"),
        ("import mlcflow.frontends.torch", "'torch', 'mlir'", "['torch']"),
    ],
)
def test_what_an_import_loads(statement: str, modules: str, loaded: str, tmp_path: Path) -> None:
    result = run(sys.executable, "-c", PROBE.format(statement, modules), cwd=tmp_path)
    assert result.stdout.strip() == loaded, result.stderr
