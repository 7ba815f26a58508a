"""A saved model runs with numpy and a driver alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fake_driver import ILLEGAL_ADDRESS
from test_operations import FLOATS, WRONG_INDICES

import mlcflow
from mlcflow.compiler import build_pipeline, import_model
from mlcflow.gpu.ptx import has_ptxas
from mlcflow.gpu.save import save
from mlcflow.tools import main


def loaded(folder, library):
    """The model in ``folder``, by the loader that lies there."""
    spec = importlib.util.spec_from_file_location("saved_loader", Path(folder) / "loader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder, library), module


def network():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 4)]
    return torch.nn.Sequential(*layers, torch.nn.Softmax(-1)).eval(), torch.randn(6, 16)


def test_what_the_loader_imports():
    tree = ast.parse(Path(mlcflow.__file__).with_name("gpu").joinpath("loader.py").read_text())
    found = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found - set(sys.stdlib_module_names) - {"pathlib"} == {"numpy", "ml_dtypes"}


def test_a_model_comes_back(gpu, build, tmp_path):
    model, x = network()
    executable = build(model, x)
    executable.save(tmp_path)
    del executable
    again, _ = loaded(tmp_path, gpu)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["host.mlir", "kernels.ptx", "loader.py", "program.json", "tensors.safetensors"]
    for _ in range(2):
        x = torch.randn(6, 16)
        with torch.no_grad():
            expected = model(x).numpy()
        np.testing.assert_allclose(again(x.numpy()), expected, rtol=1e-5, atol=1e-6)
    assert again.inputs[0]["shape"] == [6, 16] and len(again.outputs) == 1


def test_a_machine_without_a_gpu_saves(gpu, tmp_path):
    """Only the stages run; the kernels are handed to the driver of the test afterwards."""
    pytest.importorskip("llvmlite")
    model, x = network()
    imported = import_model(model, (x,))
    build_pipeline("cuda", "cuda:sm_90").run(imported.module, on_stage=gpu.on_stage)
    save(imported.module, imported.parameters, tmp_path)
    assert not gpu.calls
    again, _ = loaded(tmp_path, gpu)
    np.testing.assert_allclose(again(x.numpy()), model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_types_constants_and_several_results(gpu, build, tmp_path):
    table = torch.arange(32.0).reshape(4, 8).bfloat16()

    def function(x, y):
        return x + table, (y * 2).sum(-1)

    inputs = torch.ones(4, 8).bfloat16(), torch.arange(12).reshape(3, 4)
    build(function, *inputs).save(tmp_path)
    again, _ = loaded(tmp_path, gpu)
    first = inputs[0].view(torch.int16).numpy().view(again.outputs and np.uint16)
    import ml_dtypes

    sums = again(first.view(ml_dtypes.bfloat16), inputs[1].numpy())
    np.testing.assert_array_equal(sums[0].astype(np.float32), function(*inputs)[0].float().numpy())
    np.testing.assert_array_equal(sums[1], function(*inputs)[1].numpy())


def test_errors(gpu, build, tmp_path):
    model, x = network()
    build(model, x).save(tmp_path)
    again, module = loaded(tmp_path, gpu)
    with pytest.raises(module.LoadError, match=r"expected float32\[6, 16\], got float64"):
        again(np.zeros((6, 16)))
    with pytest.raises(module.LoadError, match="expected 1 arrays, got 2"):
        again(x.numpy(), x.numpy())
    gpu.fail["cuLaunchKernel"] = ILLEGAL_ADDRESS
    with pytest.raises(module.LoadError, match="cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS"):
        again(x.numpy())
    (tmp_path / "tensors.safetensors").write_bytes(b"\x08" + bytes(7) + b"no json!")
    with pytest.raises(module.LoadError, match="not a safetensors file"):
        module.load(tmp_path, gpu)


def test_a_check_of_the_model(gpu, build, tmp_path):
    function = WRONG_INDICES["embedding"]
    build(function, FLOATS, torch.tensor([1, 0])).save(tmp_path)
    again, module = loaded(tmp_path, gpu)
    with pytest.raises(module.LoadError, match="index is out of range"):
        again(FLOATS.numpy(), np.array([0, 5]))
    found = again(FLOATS.numpy(), np.array([1, 0]))
    np.testing.assert_allclose(found, function(FLOATS, torch.tensor([1, 0])).numpy())


def test_what_cannot_be_saved(build, tmp_path):
    model, x = network()
    rows = torch.export.Dim("rows", min=2, max=64)
    executable = build(model, x, dynamic_shapes=({0: rows},))
    with pytest.raises(mlcflow.ExecutionError, match="cannot be saved: .* only a call knows"):
        executable.save(tmp_path)
    executable = build(lambda x: x.add_(1), FLOATS.clone())
    with pytest.raises(mlcflow.ExecutionError, match="the model writes to 'x'"):
        executable.save(tmp_path)
    assert not list(tmp_path.iterdir())


MODEL = """
import torch
torch.manual_seed(0)
layers = [torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)]
model = torch.nn.Sequential(*layers).eval().half()
inputs = torch.randn(64, 64).half()
"""


def command(tmp_path, *words):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return CliRunner().invoke(main, ["compile", str(path), *words])


@pytest.mark.parametrize("chip", ["sm_80", "sm_90a"])
def test_the_command(build, tmp_path, chip):
    """What it writes is what the executable would; no driver is asked."""
    result = command(tmp_path, f"--target=cuda:{chip}", f"--output={tmp_path / 'a'}", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    found = runpy.run_path(str(tmp_path / "model.py"))
    build(found["model"], found["inputs"], target=f"cuda:{chip}").save(tmp_path / "b")
    for name in report["files"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert set(report["files"]) == {path.name for path in (tmp_path / "a").iterdir()}
    assert f".target {chip}" in (tmp_path / "a" / "kernels.ptx").read_text()
    if has_ptxas():
        assert all(kernel["spills"] == 0 for kernel in report["kernels"].values())


def test_what_the_command_says(tmp_path):
    folder = tmp_path / "written"
    result = command(tmp_path, "--target=cuda:sm_90a", f"--output={folder}")
    assert "pipeline 'cuda', target cuda:sm_90a" in result.output
    assert f"written to {folder}: host.mlir, kernels.ptx, loader.py, program.json" in result.output
    for words, message in (
        (["--output=x"], "expected cuda:CHIP, such as cuda:sm_90a, got 'host'"),
        (["--target=cuda:sm_9", "--output=x"], "unknown chip 'sm_9'"),
        (["--target=cuda:sm_90"], "missing option '--output'"),
    ):
        result = command(tmp_path, *words)
        assert result.exit_code == 2 and message in result.stderr
