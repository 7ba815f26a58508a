"""The package that docs/plugins.md shows: installed from its sources, and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "plugin_package"
PAGE = (ROOT / "docs" / "plugins.md").read_text()

USE = """
import json, sys
import numpy as np
import mlcflow
from mlcflow.mlir import walk
from doubling import model
assert "mlcflow_powers" not in sys.modules
x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
exe = mlcflow.compile(model, pipeline=sys.argv[1])
np.testing.assert_allclose(exe(x), 2**x, rtol=1e-6)
rules, names = [], []
for stage, module in exe.stages.items():
    if stage != "llvm":
        for op in walk(module.operation):
            names.append(op.operation.name)
            if "mlcflow.rule" in op.operation.attributes:
                rules.append(op.operation.attributes["mlcflow.rule"].value)
print(json.dumps({"rules": rules, "exponentials": "math.exp2" in names,
                  "powers": names.count("math.powf")}))
"""


def install(source: Path, into: Path) -> None:
    """Install without a network; the folder then stands for site-packages."""
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    words = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", into, source]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the package."""
    source, into = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, source, dirs_exist_ok=True)
    install(source, into)
    return into


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the model of the page."""
    found = re.search(r"```python\n(# doubling\.py\n.*?)```", PAGE, re.DOTALL)
    assert found
    (tmp_path / "doubling.py").write_text(found[1])
    return tmp_path


def run(folder: Path, *words: str, path: list[Path]) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def use(folder: Path, pipeline: str, path: list[Path]) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-c", USE, pipeline, path=path)


def test_the_page_shows_the_package() -> None:
    files = [PACKAGE / "pyproject.toml", PACKAGE / "mlcflow_powers.py"]
    texts = [file.read_text() for file in files]
    for file, text in zip(files, texts, strict=True):
        kind = "toml" if file.suffix == ".toml" else "python"
        assert f"```{kind}\n{text}```" in PAGE, f"docs/plugins.md differs from {file.name}"
    assert sum(text.count("\n") for text in texts) < 100


@pytest.mark.parametrize("pipeline", ["cpu", "powers", "reference"])
def test_it_is_used_where_it_should_be(pipeline: str, folder: Path, installed: Path) -> None:
    result = use(folder, pipeline, [installed])
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found["rules"]) == ({"powers"} if pipeline == "cpu" else set())
    assert found["exponentials"] == (pipeline != "reference")
    if pipeline == "powers":
        assert found["powers"] == 0
    elif pipeline == "cpu":
        assert found["powers"] == 2  # in the stages before `schedule`


def test_the_commands_of_the_page(folder: Path, installed: Path) -> None:
    found = re.search(r"test_plugins.py runs it -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found
    output = ""
    for line in found[1].splitlines():
        result = run(folder, *line.split(), path=[installed])
        assert result.returncode == 0, result.stdout + result.stderr
        output += result.stdout
    for kind in ("dialect", "pipeline", "schedule rule"):
        assert f"  {kind:<15s} powers          mlcflow-powers 0.1\n" in output
    assert "powers_to_exp2" in output
    shown = (folder / "ir" / "02-schedule.mlir").read_text()
    for text in ('mlcflow.rule = "powers"', "math.exp2", ": vector<16xf32>"):
        assert text in shown and text in PAGE
    assert "math.powf" not in shown


def test_a_second_package_with_the_same_names_clashes(
    folder: Path, installed: Path, tmp_path: Path
) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    shutil.copytree(PACKAGE, source)
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace("mlcflow-powers", "second-package"))
    install(source, other)
    for pipeline in ("cpu", "powers"):
        result = use(folder, pipeline, [installed, other])
        assert result.returncode == 1
        assert "PluginError" in result.stderr and "'powers'" in result.stderr
        assert "mlcflow-powers 0.1, second-package 0.1" in result.stderr
        assert "pip uninstall second-package" in result.stderr
    command = ("mlcflow", "opt", "-", "--pipeline=powers")
    result = run(folder, *command, path=[installed, other])
    assert result.returncode == 1 and "second-package" in result.stderr
    assert "Traceback" not in result.stderr
    assert run(folder, "mlcflow", "pipelines", path=[installed, other]).returncode == 0
