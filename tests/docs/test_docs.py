"""Every code block of the README and of the pages below ``docs/`` does what it says.

The blocks of a page run in order, in one empty folder:

- ``python`` blocks share their names;
- ``sh`` blocks run line by line with bash;
- ``mlir`` blocks are parsed and verified;
- a block whose first line is a comment with a file name, ``# model.py`` or ``// model.mlir``,
  is written to that file instead;
- other blocks (``text``) show output and are not run.

An HTML comment above a block changes that: ``<!-- not run: WHY -->`` or ``<!-- exits with 1 -->``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"(?:#|//) ([\w-]+\.(?:py|mlir))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block: the language, the text, what the comment above says, its first line."""

    kind: str
    text: str
    marker: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = [
        Block(
            match["kind"],
            match["text"],
            match["marker"] or "",
            text.count("\n", 0, match.start("text")) + 1,
        )
        for match in _BLOCK.finditer(text)
    ]
    assert len(found) == len(re.findall(r"^```\w", text, re.MULTILINE)), "a block is not closed"
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        file = _FILE.match(block.text)
        if file:
            Path(file[1]).write_text(block.text)
            monkeypatch.delitem(sys.modules, Path(file[1]).stem, raising=False)
        elif not block.marker.startswith("not run: "):
            if block.kind == "python":
                _run_python(block, page, names)
            elif block.kind == "sh":
                _run_shell(block, page)
            elif block.kind == "mlir":
                _run_mlir(block, page)


def _run_python(block: Block, page: Path, names: dict[str, object]) -> None:
    padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(padded, str(page), "exec"), names)


def _run_shell(block: Block, page: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    expected = 1 if block.marker == "exits with 1" else 0
    result = subprocess.run(
        [bash, "-eu", "-c", block.text],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == expected, (
        f"{page}:{block.line}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
    )


def _run_mlir(block: Block, page: Path) -> None:
    from mlcflow import mlir

    try:
        mlir.parse(block.text)
    except mlir.ir.MLIRError as error:
        pytest.fail(f"{page}:{block.line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Links to files of the project lead somewhere."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: no file '{target}'"
