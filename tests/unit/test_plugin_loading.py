"""Plug-ins: order, clashes, packages that do not load, and what is loaded when."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlcflow import dialects, mlir, plugins
from mlcflow.check.plugins import check_plugins
from mlcflow.errors import MlcflowError, PluginError, ScheduleError
from mlcflow.mlir import ir
from mlcflow.pipelines import build, names
from mlcflow.pipelines.schedules import CPU, cpu_rules
from mlcflow.runtime import libraries
from mlcflow.schedule.interpret import apply
from mlcflow.target import Target
from mlcflow.tools import main

Add = Callable[..., None]

RULE = "def rule(kernel, target):\n    return None\n"


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Puts a package with entry points and one module on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(dialects, "BROKEN", {})
    before = set(sys.modules)

    def add(package: str, source: str = RULE, **entries: dict[str, str]) -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = []
        for kind, members in entries.items():
            lines.append(f"[mlcflow.{kind}]")
            lines += [f"{name} = {package}:{member}" for name, member in members.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / f"{package}.py").write_text(source)
        plugins.installed.cache_clear()

    plugins.installed.cache_clear()
    yield add
    plugins.installed.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("toy"):
            del sys.modules[name]


def test_rules_of_packages_come_first_in_alphabetical_order(add: Add) -> None:
    add("toy_z", schedules={"beta": "rule"})
    add("toy_a", schedules={"gamma": "rule", "alpha": "rule"})
    assert list(cpu_rules()) == ["alpha", "beta", "gamma", *CPU]


def test_pipelines_of_packages_come_after_ours(add: Add) -> None:
    source = (
        "from mlcflow import Pipeline\n"
        "def pipeline(target, *, level: int = 2):\n    'Nothing.'\n"
        "    return Pipeline('another name', (), opt_level=level)\n"
    )
    add("toy_p", source, pipelines={"nothing": "pipeline"})
    assert names() == ["reference", "cpu", "cuda", "nothing"]
    built = build("nothing", Target.parse("cpu:haswell"), level=1)
    assert (built.name, built.opt_level) == ("nothing", 1)
    assert built.arguments == ("--target=cpu:haswell", "--option=level=1")
    with pytest.raises(MlcflowError, match="unknown option 'levl'.*did you mean 'level'"):
        build("nothing", Target.host(), levl=1)
    with pytest.raises(MlcflowError, match="unknown pipeline 'nothin'.*did you mean 'nothing'"):
        build("nothin", Target.host())


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def pipeline(target):\n    return 3\n", "expected a Pipeline, got int"),
        (
            "from __future__ import annotations\ndef pipeline(target: Target): ...\n",
            "a type in its signature: name 'Target' is not defined",
        ),
    ],
)
def test_what_a_pipeline_must_be(source: str, problem: str, add: Add) -> None:
    add("toy_p", source, pipelines={"wrong": "pipeline"})
    with pytest.raises(MlcflowError, match=f"pipeline 'wrong': {problem}"):
        build("wrong", Target.host())


@pytest.mark.parametrize(
    ("kind", "name", "use"),
    [
        ("pipelines", "cpu", lambda: build("cpu", Target.host())),
        ("schedules", "reduction", cpu_rules),
        ("schedules", "loops", cpu_rules),
        ("dialects", "schedule", mlir.context),
        ("dialects", "linalg", mlir.context),
    ],
)
def test_a_clash_with_mlcflow(kind: str, name: str, use: Callable[[], object], add: Add) -> None:
    add("toy_c", **{kind: {name: "rule"}})
    with pytest.raises(PluginError, match=rf"'{name}' .*: mlcflow [\d.]+, toy_c 1.0") as caught:
        use()
    assert "pip uninstall toy_c" in str(caught.value)
    assert "toy_c" not in sys.modules
    build("reference", Target.host())


def test_a_clash_of_two_packages_is_an_error_where_the_name_is_used(add: Add) -> None:
    add("toy_a", pipelines={"same": "rule"})
    add("toy_b", pipelines={"same": "rule"})
    with pytest.raises(PluginError, match="pipeline 'same' .*: toy_a 1.0, toy_b 1.0"):
        build("same", Target.host())
    build("cpu", Target.host())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('on purpose')\n", "RuntimeError: on purpose"),
        ("", "AttributeError: .*'rule'"),
        ("rule = 3\n", "expected a function, got int"),
    ],
)
def test_a_package_that_does_not_load(source: str, reason: str, add: Add) -> None:
    add("toy_broken", source, pipelines={"toy": "rule"}, schedules={"toy": "rule"})
    expected = rf"package toy_broken 1.0 \(toy_broken:rule\) does not work: {reason}"
    with pytest.raises(PluginError, match=expected) as caught:
        build("toy", Target.host())
    assert "pip uninstall toy_broken" in str(caught.value)
    with pytest.raises(PluginError, match=expected):
        build("cpu", Target.host())
    build("reference", Target.host())
    mlir.context()


def test_the_command_line_goes_on_without_what_does_not_load(add: Add) -> None:
    add("toy_broken", "import no_such_module\n", pipelines={"toy": "rule"})
    listed = CliRunner().invoke(main, ["pipelines"])
    assert listed.exit_code == 0
    assert "stages: simplify" in listed.output and "No module named" in listed.output
    data = json.loads(CliRunner().invoke(main, ["pipelines", "--json"]).output)
    assert [each["name"] for each in data if "problem" in each] == ["toy"]
    for words in (["pipelines", "toy"], ["opt", "-", "--pipeline=toy"]):
        asked = CliRunner().invoke(main, words)
        assert asked.exit_code == 1
        assert asked.output.startswith("error: pipeline 'toy' of package toy_broken 1.0")
    report = CliRunner().invoke(main, ["doctor"])
    assert report.exit_code == 1
    assert "  pipeline        toy             toy_broken 1.0\n" in report.output


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("def load():\n    raise RuntimeError('on purpose')\n", "RuntimeError: on purpose"),
        ("def load():\n    pass\n", "it loads no dialect of the name 'toy'"),
    ],
)
def test_a_dialect_that_does_not_load_is_left_out_with_one_warning(
    source: str, reason: str, add: Add, caplog: pytest.LogCaptureFixture
) -> None:
    add("toy_broken", source, dialects={"toy": "load"})
    with caplog.at_level(logging.WARNING, "mlcflow"):
        for _ in range(2):
            mlir.parse("func.func @f() { return }")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "dialect 'toy' of package toy_broken 1.0" in caplog.text and reason in caplog.text
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    (state,) = report["plugins"]
    assert reason in state["problem"] and not report["healthy"]
    assert (state["kind"], state["name"], state["package"]) == ("dialect", "toy", "toy_broken 1.0")


def test_loading_the_dialects_twice_does_nothing() -> None:
    ctx = mlir.context()
    dialects.load_dialects(ctx)
    assert ctx.is_dialect_loaded("schedule")


def test_a_transform_operation_that_is_not_loaded_is_an_error() -> None:
    module = mlir.parse("func.func @f() { return }")
    with pytest.raises(ScheduleError, match="unknown operation toy.nothing"):
        apply(module, lambda root: ir.Operation.create("toy.nothing", operands=[root]))


LAZY = """
import sys
import mlcflow, mlcflow.compiler, mlcflow.mlir
from mlcflow import plugins
assert plugins.installed.cache_info().misses == 0, "looked up at import"
mlcflow.compiler.build_pipeline("reference")
assert "toy_lazy" not in sys.modules
assert "lazy" in mlcflow.pipelines.names() and "toy_lazy" not in sys.modules
mlcflow.compiler.build_pipeline("cpu")
assert "toy_lazy" in sys.modules
assert plugins.installed.cache_info().misses == 1, "looked up more than once"
"""


def test_packages_are_looked_up_and_imported_late(add: Add, tmp_path: Path) -> None:
    add("toy_lazy", schedules={"lazy": "rule"}, pipelines={"lazy": "rule"})
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{LAZY}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


LIBRARY = """
from mlcflow import Library

def function():
    return Library({name!r}, "Y[i] = -X[i]", "float32", ("negate",), lambda symbol, on_error: None)
"""


def test_library_functions_of_packages(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("toy_l", LIBRARY.format(name="negate"), libraries={"negate": "function"})
    assert "negate" in libraries.names() and libraries.find_library("negate").dtype == "float32"
    with pytest.raises(MlcflowError, match="there is a library function 'negate'"):
        libraries.library("negate", "Y[i] = -X[i]", lambda x, y: None)
    assert [state.problem for state in check_plugins(load=True)] == [""]


def test_library_functions_that_are_wrong(add: Add) -> None:
    add(
        "toy_m", LIBRARY.format(name="other"), libraries={"negate": "function", "sgemm": "function"}
    )
    with pytest.raises(PluginError, match="expected a Library called 'negate'"):
        libraries.find_library("negate")
    problems = {state.name: state.problem for state in check_plugins(load=True)}
    assert "'sgemm' is in more than one package" in problems["sgemm"]
