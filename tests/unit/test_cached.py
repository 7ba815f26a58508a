"""Compiling the same a second time: what is taken from the cache, and what never is."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import cache_key, cached
from mlcflow.compiler import build_pipeline
from mlcflow.errors import ExecutionError, MlcflowError, VerificationError
from mlcflow.frontends import torch as frontend
from mlcflow.frontends.model import read_model
from mlcflow.pipeline import Pipeline
from mlcflow.pipelines import schedules
from mlcflow.runtime import cache as directory
from mlcflow.runtime import libraries, machine_code, object_code
from mlcflow.runtime.stored import StoredProgram, from_bytes
from mlcflow.target import Target

pytestmark = pytest.mark.skipif(
    not (directory.is_supported() and object_code.is_available()), reason="needs llvmlite"
)

HOST = Target.host()
MODULE = """
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %e = tensor.empty() : tensor<4x8xf32>
  %r = linalg.exp ins(%x : tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
}"""


class Net(torch.nn.Module):
    """Two layers; ``factor`` is a number in the program, not a parameter."""

    def __init__(self, width: int = 8, factor: float = 2.0) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, width), torch.nn.Linear(width, 4)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))) * self.factor


def net(seed: int = 0, **options: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**options).eval()


X = torch.linspace(-1, 1, 24).reshape(3, 8)


class Log(logging.Handler):
    """What mlcflow logged, also what pytest's own fixture leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


@pytest.fixture
def log() -> Iterator[Log]:
    logger, handler = logging.getLogger("mlcflow"), Log()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets a line for each model lowered, pipeline run, object made by LLVM."""
    seen = []
    run, compile_object = Pipeline.run, machine_code.compile_object
    lower = frontend.decompose

    def note_lowering(*arguments: Any) -> Any:
        seen.append("lowering")
        return lower(*arguments)

    monkeypatch.setattr(frontend, "decompose", note_lowering)

    def note_run(self: Pipeline, *arguments: Any, **options: Any) -> Any:
        seen.append("pipeline")
        return run(self, *arguments, **options)

    def note_object(*arguments: Any) -> bytes:
        seen.append("object")
        return compile_object(*arguments)

    monkeypatch.setattr(Pipeline, "run", note_run)
    monkeypatch.setattr(machine_code, "compile_object", note_object)
    return seen


BOTH = ["pipeline", "object"]


def test_the_second_time_nothing_is_compiled(tmp_path: Path, compiled: list[str]) -> None:
    first = mlcflow.compile(net(), X, cache=tmp_path / "c")
    assert compiled == ["lowering", *BOTH]
    compiled.clear()
    model = net(seed=1)  # other parameters, the same program
    second = mlcflow.compile(model, X, cache=tmp_path / "c")
    assert compiled == []
    torch.testing.assert_close(second(X), model(X))
    assert not torch.equal(second(X), first(X))
    assert list(map(str, second.inputs)) == list(map(str, first.inputs))
    with torch.no_grad():
        model.first.weight.zero_()
    second.prepare()
    torch.testing.assert_close(second(X), model(X))


def test_stages_are_made_when_they_are_asked_for(tmp_path: Path, compiled: list[str]) -> None:
    first = mlcflow.compile(net(), X, cache=tmp_path / "c")
    second = mlcflow.compile(net(), X, cache=tmp_path / "c")
    compiled.clear()
    assert list(second.stages) == list(first.stages) and compiled == ["lowering", "pipeline"]
    for name in first.stages:
        assert str(second.stages[name]) == str(first.stages[name])
    assert compiled == ["lowering", "pipeline"]


SCRIPT = """
import hashlib, logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("mlcflow").setLevel(logging.INFO)
import torch, mlcflow
sys.path.insert(0, sys.argv[1])
from test_cached import X, net
exe = mlcflow.compile(net(), X, cache=sys.argv[2])
stages = hashlib.sha256(str(exe.stages["llvm"]).encode()).hexdigest()
print("result", exe(X).sum().item(), stages)
"""


def run_process(seed: int, folder: Path, cache: Path) -> list[str]:
    folder.mkdir()
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(cache)]
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_in_other_processes(tmp_path: Path) -> None:
    """Other hash seeds and folders: the key is the same, and so is what a stage leaves."""
    first = run_process(1, tmp_path / "1", tmp_path / "cache")
    second = run_process(2, tmp_path / "2", tmp_path / "cache")
    third = run_process(3, tmp_path / "3", tmp_path / "another")
    message = "from the cache: no stage has run"
    assert message not in first and message in second and message not in third
    assert len(list((tmp_path / "cache").iterdir())) == 1
    names = {path.name for name in ("cache", "another") for path in (tmp_path / name).iterdir()}
    assert len(names) == 1
    assert first[-1:] == second[-1:] == third[-1:]
    entries = [next((tmp_path / name).iterdir()).read_bytes() for name in ("cache", "another")]
    assert entries[0] == entries[1]  # the object file, too


def key(model: Any, *inputs: Any, pipeline: str = "cpu", target: Target = HOST, **more: Any) -> str:
    options = more.pop("options", {})
    imported = read_model(model, inputs, **more)
    return cache_key.cache_key(imported, pipeline, options, target) or ""


def test_what_decides_about_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = key(net(), X)
    assert usual and usual == key(net(seed=3), X * 2)
    batch = torch.export.Dim("batch")
    others = {
        "width": key(net(width=16), X),
        "a number in the program": key(net(factor=3.0), X),
        "the type of a number": key(net(factor=3), X),
        "shape": key(net(), X[:2]),
        "dtype": key(net().double(), X.double()),
        "an open dimension": key(net(), X, dynamic_shapes=({0: batch},)),
        "training": key(torch.nn.Sequential(net(), torch.nn.Dropout()).train(), X),
        "no training": key(torch.nn.Sequential(net(), torch.nn.Dropout()).eval(), X),
        "strides of a parameter": key(transposed_weight(), X),
        "pipeline": key(net(), X, pipeline="reference"),
        "options": key(net(), X, options={"fast_math": False}),
        "cores": key(net(), X, target=replace(HOST, cores=HOST.cores + 1)),
        "chip": key(net(), X, target=Target.parse("cpu:haswell")),
    }
    monkeypatch.setattr(cache_key, "host_processor", lambda: ("other", "+avx"))
    others["processor"] = key(net(), X)
    monkeypatch.undo()
    monkeypatch.setattr(cache_key, "_version", lambda package: f"{package} of tomorrow")
    others["versions"] = key(net(), X)
    monkeypatch.undo()
    monkeypatch.setattr(cache_key, "_sources", lambda: "edited")
    others["sources"] = key(net(), X)
    monkeypatch.undo()
    assert all(others.values()) and usual not in others.values()
    assert len(set(others.values())) == len(others)
    assert key(net(), X) == usual


def transposed_weight() -> Net:
    model = net()
    model.first.weight = torch.nn.Parameter(model.first.weight.detach().t().contiguous().t())
    return model


def test_an_edited_source_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text("")
    (tmp_path / "room" / "rule.py").write_text("x = 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        digests = []
        for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
            (tmp_path / "room" / "rule.py").write_text(text)
            digest = hashlib.sha256()
            cache_key._add_files(digest, "room")
            digests.append(digest.hexdigest())
        (tmp_path / "room" / "rule.py").rename(tmp_path / "room" / "rules.py")
        digest = hashlib.sha256()
        cache_key._add_files(digest, "room")
        digests.append(digest.hexdigest())
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("room", None)
    assert digests[0] == digests[2] and len(set(digests)) == 3


def test_what_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program's text does not tell all, or a rule may be anything."""

    @torch.library.custom_op("tests_cached::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(lambda x: torch.empty_like(x))
    program = torch.export.export(Call(twice), (X,))
    assert key(program) == ""
    assert key(net(), X) != ""
    monkeypatch.setitem(schedules.CPU, "mine", lambda kernel, target: None)
    assert key(net(), X) == ""
    monkeypatch.undo()
    assert cached.key_for(read_model(net(), (X,)), build_pipeline("cpu"), None, None) is None


class Call(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_branches_are_part_of_the_key() -> None:
    def branch(shift: float) -> Any:
        def run(x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x + shift, lambda x: x - 1, (x,))

        return run

    assert key(branch(1.0), X) == key(branch(1.0), X) != ""
    assert key(branch(1.0), X) != key(branch(2.0), X)


def norm(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softmax(torch.nn.functional.layer_norm(x, (8,)), -1)


class Counting(torch.nn.Module):
    """Writes into a buffer, and into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x.mul_(2)
        return x + self.calls


@pytest.mark.parametrize("pipeline", ["reference", "cpu"])
def test_the_numbers_are_the_same(tmp_path: Path, pipeline: str, log: Log) -> None:
    image = torch.linspace(-1, 1, 300).reshape(1, 3, 10, 10)
    models = [
        (norm, (X,)),
        (lambda x: (x.sum(0), x.argmax(1), x > 0), (X,)),
        (torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).eval(), (image,)),
        (lambda x: x[x[:, 0].argsort()], (X,)),
        (lambda: torch.arange(5.0), ()),
    ]
    for model, inputs in models:
        first = mlcflow.compile(model, *inputs, pipeline=pipeline, cache=tmp_path)
        log.text = ""
        again = mlcflow.compile(model, *inputs, pipeline=pipeline, cache=tmp_path)
        assert "from the cache" in log.text, model
        for ours, theirs in zip(leaves(again(*inputs)), leaves(first(*inputs)), strict=True):
            assert torch.equal(ours, theirs)


def leaves(value: Any) -> list:
    return list(value) if isinstance(value, tuple) else [value]


def test_what_is_written_and_what_is_open(tmp_path: Path, log: Log) -> None:
    for _ in range(2):
        counting = mlcflow.compile(Counting(), X.clone(), cache=tmp_path)
        x = X.clone()
        torch.testing.assert_close(counting(x), X * 2 + 1)
        torch.testing.assert_close(x, X * 2)
        torch.testing.assert_close(counting(x), X * 4 + 2)
        batch = torch.export.Dim("batch")
        open_ = mlcflow.compile(norm, X, dynamic_shapes=({0: batch},), cache=tmp_path)
        torch.testing.assert_close(open_(torch.cat([X, X])), norm(torch.cat([X, X])))
    assert log.text.count("from the cache") == 2


def test_assertions_and_threads(tmp_path: Path, log: Log) -> None:
    text = """
func.func @main(%x: tensor<i64>) -> tensor<i64> {
  %v = tensor.extract %x[] : tensor<i64>
  %zero = arith.constant 0 : i64
  %ok = arith.cmpi sgt, %v, %zero : i64
  cf.assert %ok, "it must be positive"
  return %x : tensor<i64>
}"""
    for _ in range(2):
        exe = mlcflow.compile(text, cache=tmp_path)
        assert exe(np.array(3)) == 3
        with pytest.raises(ExecutionError, match="it must be positive"):
            exe(np.array(-3))
        assert exe.threads == HOST.cores
        with pytest.raises(ExecutionError, match="threads: expected 1 to"):
            exe.threads = HOST.cores + 1
    assert log.text.count("from the cache") == 1


def test_threads_of_a_program_from_the_cache(tmp_path: Path, log: Log) -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(512, 512).eval(), torch.randn(256, 512)
    target = replace(HOST, cores=2)
    for threads in (2, 1, 2):
        exe = mlcflow.compile(model, x, target=target, threads=threads, cache=tmp_path)
        torch.testing.assert_close(exe(x), model(x), rtol=1e-4, atol=1e-4)
    assert log.text.count("from the cache") == 2


def test_a_damaged_entry_is_compiled_again(tmp_path: Path, compiled: list[str], log: Log) -> None:
    mlcflow.compile(MODULE, cache=tmp_path / "c")
    [entry] = (tmp_path / "c").iterdir()
    data = entry.read_bytes()
    for wrong in (data[:-1], data[: len(data) // 2] + b"\0" + data[len(data) // 2 + 1 :], b""):
        entry.write_bytes(wrong)
        compiled.clear()
        exe = mlcflow.compile(MODULE, cache=tmp_path / "c")
        x = X[:1].expand(4, 8).numpy()
        np.testing.assert_allclose(exe(x), np.exp(x), rtol=1e-6)
        assert compiled == BOTH and "not from the cache" in log.text
        assert entry.read_bytes() == data  # and is whole again


def test_bytes_that_are_no_program(tmp_path: Path, compiled: list[str]) -> None:
    """Whole and the user's own, but of another kind: an entry, a program, an object file."""
    imported = read_model(MODULE)
    name = cached.key_for(imported, "cpu", None, None)
    store = directory.Cache(tmp_path / "c")
    good = machine_code.store(run_stages(), 3)
    wrong = [
        b"",
        b"\xff" * 100,
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
    ]
    wrong += [replace(good, code=b"no object").to_bytes()]
    wrong += [replace(good, symbols=[*good.symbols, "nowhere"]).to_bytes()]
    wrong += [replace(good, functions={}).to_bytes()]
    for content in wrong:
        store.write(str(name), content)
        compiled.clear()
        exe = mlcflow.compile(MODULE, cache=tmp_path / "c")
        x = X[:1].expand(4, 8).numpy()
        np.testing.assert_allclose(exe(x), np.exp(x), rtol=1e-6)
        assert compiled == BOTH, content[:40]


def run_stages() -> Any:
    imported = read_model(MODULE)
    build_pipeline("cpu").run(imported.module)
    return imported.module


def test_an_object_that_does_not_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str], log: Log
) -> None:
    """On a machine where the linker is not up to it, the model is compiled all the same."""

    def fail(*given: Any) -> Any:
        raise ExecutionError("the object file does not link: on purpose")

    monkeypatch.setattr(machine_code, "link_object", fail)
    exe = mlcflow.compile(MODULE, cache=tmp_path / "c")
    assert exe(np.zeros((4, 8), np.float32)).sum() == 32
    assert not (tmp_path / "c").exists() and "does not link" in log.text


def test_a_directory_of_others_is_not_used(tmp_path: Path, compiled: list[str], log: Log) -> None:
    mlcflow.compile(MODULE, cache=tmp_path / "c")
    (tmp_path / "c").chmod(0o777)
    before = {path: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    compiled.clear()
    mlcflow.compile(MODULE, cache=tmp_path / "c")
    assert compiled == BOTH
    assert "not from the cache: " in log.text and "not kept in the cache: " in log.text
    assert {path: path.read_bytes() for path in (tmp_path / "c").iterdir()} == before


def test_a_disk_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(directory.Cache, "write", fail)
    exe = mlcflow.compile(MODULE, cache=tmp_path / "c")
    assert "not kept in the cache: [Errno 30] Read-only" in log.text
    assert exe(np.zeros((4, 8), np.float32)).sum() == 32


def test_how_it_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    place = tmp_path / "place"
    monkeypatch.setenv("MLCFLOW_CACHE_DIR", "")
    mlcflow.compile(MODULE)
    monkeypatch.setenv("MLCFLOW_CACHE_DIR", str(place))
    mlcflow.compile(MODULE, cache=False)
    mlcflow.compile(MODULE, on_stage=lambda record: None)
    mlcflow.compile(MODULE, pipeline=build_pipeline("cpu"))
    monkeypatch.setenv("MLCFLOW_DUMP_DIR", str(tmp_path / "ir"))
    mlcflow.compile(MODULE)
    monkeypatch.delenv("MLCFLOW_DUMP_DIR")
    monkeypatch.setenv("MLCFLOW_DEBUG", "1")
    mlcflow.compile(MODULE)
    monkeypatch.delenv("MLCFLOW_DEBUG")
    monkeypatch.setattr(object_code, "is_available", lambda: False)
    mlcflow.compile(MODULE)
    assert not place.exists() and compiled == ["pipeline"] * 7
    monkeypatch.undo()
    monkeypatch.setenv("MLCFLOW_CACHE_DIR", str(place))
    mlcflow.compile(MODULE)
    assert len(list(place.iterdir())) == 1


def test_what_was_verified_is_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("mlcflow.compiler.check_executable", lambda *given: seen.append(given[0]))
    mlcflow.compile(net(), X, verify=False, cache=tmp_path)
    assert len(seen) == 0
    mlcflow.compile(net(), X, cache=tmp_path)
    assert len(seen) == 1
    mlcflow.compile(net(), X, cache=tmp_path)
    mlcflow.compile(net(), X, verify=False, cache=tmp_path)
    assert len(seen) == 1


def test_what_is_wrong_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise VerificationError("on purpose")

    monkeypatch.setattr("mlcflow.compiler.check_executable", fail)
    with pytest.raises(VerificationError):
        mlcflow.compile(net(), X, cache=tmp_path / "c")
    assert not (tmp_path / "c").exists()


CALL = """
func.func private @library_scale({kind}, {kind}) -> {kind}
    attributes {{mlcflow.library = "scale"}}
func.func @main(%x: {kind}) -> {kind} {{
  %e = tensor.empty() : {kind}
  %w = tensor.cast %e : {kind} to {kind}
  %r = func.call @library_scale(%x, %w) : ({kind}, {kind}) -> {kind}
  return %r : {kind}
}}"""


def test_library_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of this process is called; another statement is another program."""
    monkeypatch.setattr(libraries, "LIBRARIES", dict(libraries.LIBRARIES))
    text = CALL.format(kind="tensor<4x8xf32>")
    x = np.ones((4, 8), np.float32)

    def scale(by: float) -> Any:
        return lambda x, y: np.multiply(x, by, out=y)

    for by, statement, entries in (
        (2, "Y[i, j] = 2 * X[i, j]", 1),
        (3, "Y[i, j] = 3 * X[i, j]", 1),
    ):
        libraries.library("scale", statement, scale(by), override=True)
        for _ in range(2):
            assert (mlcflow.compile(text, cache=tmp_path)(x) == by).all()
        assert len(list(tmp_path.iterdir())) == entries
    libraries.library("scale", "Y[i, j] = 3 * X[i, j]", scale(4), override=True)
    assert (mlcflow.compile(text, cache=tmp_path)(x) == 4).all()
    del libraries.LIBRARIES["scale"]
    with pytest.raises(MlcflowError, match="unknown library function 'scale'"):
        mlcflow.compile(text, cache=tmp_path)


def test_a_program_as_bytes() -> None:
    program = machine_code.store(run_stages(), 3)
    assert from_bytes(program.to_bytes()) == program
    assert isinstance(program, StoredProgram) and program.parameters == set()
    for length in (0, 4, 8, 20, 100):
        with pytest.raises(ValueError):
            from_bytes(program.to_bytes()[:length])


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlcflow.config import from_environment

    monkeypatch.delenv("MLCFLOW_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert from_environment().cache_dir == tmp_path / "x" / "mlcflow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert from_environment().cache_dir in (
        tmp_path / ".cache" / "mlcflow",
        tmp_path / "Library" / "Caches" / "mlcflow",
    )
    monkeypatch.setenv("MLCFLOW_CACHE_DIR", "~/here")
    assert from_environment().cache_dir == tmp_path / "here"
