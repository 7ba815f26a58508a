"""The host side: what is asked of the driver, and what becomes of its errors."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch
from fake_driver import ILLEGAL_ADDRESS, NO_MEMORY

import mlcflow
from mlcflow.gpu import driver


def layers():
    torch.manual_seed(0)
    stack = [torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 4)]
    return torch.nn.Sequential(*stack).eval(), torch.randn(6, 16)


def test_what_a_call_asks_of_the_driver(gpu, build):
    model, x = layers()
    executable = build(model[0], x)  # a single kernel, which is no graph
    executable(x)
    gpu.calls.clear()
    executable(x)
    launch = f"launch {gpu.launched[0]}"
    copies = ["cuMemcpyHtoDAsync_v2", launch, "cuMemcpyDtoHAsync_v2"]
    assert gpu.calls == ["cuCtxSetCurrent", *copies, "cuStreamSynchronize"]


def test_arrays_and_tensors(build):
    model, x = layers()
    executable = build(model, x)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(executable(x), expected)
    np.testing.assert_allclose(executable(x.numpy()), expected.numpy(), rtol=1e-5, atol=1e-5)
    gaps = torch.stack([x, x], 2)[:, :, 0]
    torch.testing.assert_close(executable(gaps), expected)


def test_it_is_verified_against_the_model(gpu):
    pytest.importorskip("llvmlite")
    model, x = layers()
    mlcflow.compile(model, x, target="cuda:sm_90", pipeline="cuda", on_stage=gpu.on_stage)
    assert len(gpu.launched) >= 2


def test_parameters_stay_on_the_device(gpu, build):
    model, x = layers()
    executable = build(model, x)
    with torch.no_grad():
        before = model(x)
        model[0].weight.zero_()
        torch.testing.assert_close(executable(x), before)  # those of before
        executable.prepare()
        torch.testing.assert_close(executable(x), model(x))


def test_all_memory_is_given_back(gpu, build):
    model, x = layers()
    executable = build(model, x)
    for _ in range(3):
        executable(x)
    assert gpu.memory
    del executable
    gc.collect()
    assert not gpu.memory
    assert gpu.calls.count("cuModuleUnload") == 1


def test_several_threads_at_once(build):
    model, x = layers()
    executable = build(model, x)
    inputs = [torch.randn(6, 16) for _ in range(4)]
    found: dict[int, list] = {n: [] for n in range(4)}

    def work(number: int) -> None:
        for _ in range(5):
            found[number].append(executable(inputs[number]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for number, results in found.items():
            for result in results:
                torch.testing.assert_close(result, model(inputs[number]))


def test_errors_have_the_names_of_the_driver(gpu, build):
    model, x = layers()
    executable = build(model, x)
    gpu.fail["cuLaunchKernel"] = ILLEGAL_ADDRESS
    with pytest.raises(
        mlcflow.ExecutionError, match=r"kernel '\w+': CUDA_ERROR_ILLEGAL_ADDRESS: of the fake"
    ):
        executable(x)
    executable(x)  # the error is over
    gpu.fail["cuMemcpyHtoDAsync_v2"] = NO_MEMORY
    with pytest.raises(mlcflow.ExecutionError, match="cuMemcpyHtoDAsync_v2: CUDA_ERROR_OUT_OF_"):
        executable(x)
    gpu.fail["cuModuleLoadDataEx"] = 999
    with pytest.raises(mlcflow.ExecutionError, match="cuModuleLoadDataEx: CUDA_ERROR_999"):
        build(model, x)


def test_inputs_that_do_not_fit(build):
    model, x = layers()
    executable = build(model, x)
    with pytest.raises(mlcflow.ExecutionError, match="structure of the arguments"):
        executable(x, x)
    with pytest.raises(mlcflow.ExecutionError, match="expected float32, got float64"):
        executable(x.double())


def test_sizes_known_at_run_time(build):
    model, x = layers()
    rows = torch.export.Dim("rows", min=2, max=64)
    executable = build(model, x, dynamic_shapes=({0: rows},))
    with torch.no_grad():
        for count in (6, 2, 33):
            x = torch.randn(count, 16)
            torch.testing.assert_close(executable(x), model(x))


def test_constants_of_the_model(build):
    table = torch.arange(12.0).reshape(3, 4)
    executable = build(lambda x: x + table, torch.ones(3, 4))
    torch.testing.assert_close(executable(torch.ones(3, 4)), table + 1)


def test_the_gpu_of_this_machine(gpu):
    target = mlcflow.Target.host_gpu()
    assert str(target) == "cuda:sm_90a" and target.cores == 132
    assert mlcflow.Target.parse("cuda") == target
    gpu.fail["cuInit"] = 999
    driver.open_driver.cache_clear()
    with pytest.raises(mlcflow.ExecutionError, match="cuInit: CUDA_ERROR_999"):
        mlcflow.Target.host_gpu()


def test_a_machine_without_a_driver(monkeypatch):
    monkeypatch.setattr(driver, "LIBRARIES", ("libnosuchdriver.so",))
    driver.open_driver.cache_clear()
    with pytest.raises(mlcflow.ExecutionError, match="no driver for NVIDIA GPUs on this machine"):
        mlcflow.Target.parse("cuda")
    assert not driver.has_driver()


def test_what_the_pipelines_need():
    with pytest.raises(mlcflow.MlcflowError, match="'cpu': expected a target such as 'host'"):
        mlcflow.compile("func.func @main() { return }", target="cuda:sm_90")
    with pytest.raises(mlcflow.MlcflowError, match="expected a target such as 'cuda:sm_90'"):
        mlcflow.compile("func.func @main() { return }", target="host", pipeline="cuda")


def test_ptx_by_kernel(build):
    executable = build(*layers())
    assert ".visible .entry matmul_add_kernel(" in executable.assembly("matmul_add_kernel")
    assert executable.assembly().count(".visible .entry") >= 2
    with pytest.raises(mlcflow.MlcflowError, match="did you mean 'matmul_add_kernel'"):
        executable.assembly("matmul_ad_kernel")
    with pytest.raises(mlcflow.MlcflowError, match="not timed yet"):
        executable.profile(layers()[1])
