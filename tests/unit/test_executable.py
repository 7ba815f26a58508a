"""Calling a compiled model: structures, aliases, mutation, memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import ExecutionError

ROW = torch.arange(12.0).reshape(3, 4)


def test_numpy_in_numpy_out_and_torch_in_torch_out(pipeline: str) -> None:
    executable = mlcflow.compile(lambda a, b: a + b, ROW, ROW, pipeline=pipeline)
    assert type(executable(ROW.numpy(), ROW.numpy())) is np.ndarray
    assert type(executable(ROW, ROW)) is torch.Tensor
    assert type(executable(ROW.numpy(), ROW)) is torch.Tensor
    torch.testing.assert_close(executable(ROW, ROW.numpy()), ROW + ROW)


def test_several_results(pipeline: str) -> None:
    executable = mlcflow.compile(lambda a: (a + 1, a.sum(), a > 2), ROW, pipeline=pipeline)
    plus, total, above = executable(ROW.numpy())
    np.testing.assert_array_equal(plus, ROW.numpy() + 1)
    assert total.shape == () and total == 66
    assert above.dtype == bool and above.sum() == 9


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")


def nested(state: dict, pairs: list, *, scale: torch.Tensor, shift: torch.Tensor) -> dict:
    total = state["a"] * scale + shift
    return {"sum": total, "rest": [pairs[0] + 1, (pairs[1], total * 2)]}


def test_nested_structures_and_keywords(pipeline: str) -> None:
    args = ({"a": ROW}, [ROW, ROW * 2])
    keywords = {"scale": torch.tensor(3.0), "shift": torch.tensor(1.0)}
    executable = mlcflow.compile(nested, *args, kwargs=keywords, pipeline=pipeline)
    expected = nested(*args, **keywords)
    actual = executable(*args, shift=keywords["shift"], scale=keywords["scale"])
    assert list(actual) == ["sum", "rest"] and type(actual["rest"][1]) is tuple
    torch.testing.assert_close(actual, expected)


def test_dataclasses(pipeline: str) -> None:
    executable = mlcflow.compile(
        lambda pair: Pair(pair.second + 1, pair.first * 2), Pair(ROW, ROW + 5), pipeline=pipeline
    )
    actual = executable(Pair(ROW, ROW + 5))
    assert type(actual) is Pair
    torch.testing.assert_close((actual.first, actual.second), (ROW + 6, ROW * 2))


def test_wrong_structure_is_refused() -> None:
    executable = mlcflow.compile(lambda d: d["a"] + d["b"], {"a": ROW, "b": ROW})
    with pytest.raises(ExecutionError, match="structure of the arguments"):
        executable({"a": ROW})
    with pytest.raises(ExecutionError, match="keyword arguments: expected \\[\\], got \\['x'\\]"):
        executable(x=ROW)


def test_constant_inputs_are_checked() -> None:
    executable = mlcflow.compile(lambda a, n, flag=None: a * n, ROW, 3, kwargs={"flag": None})
    torch.testing.assert_close(executable(ROW, 3, flag=None), ROW * 3)
    with pytest.raises(ExecutionError, match="input 1 was the constant 3 .* got 4"):
        executable(ROW, 4, flag=None)


def test_constant_and_missing_results(pipeline: str) -> None:
    executable = mlcflow.compile(lambda a: (a + 1, 7, None, "name"), ROW, pipeline=pipeline)
    first, *rest = executable(ROW)
    torch.testing.assert_close(first, ROW + 1)
    assert rest == [7, None, "name"]


class Aliases(torch.nn.Module):
    """Returns an input, a parameter, a view of it, and one value twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x @ self.weight
        return y, y, x, self.weight, self.weight.t()


def test_results_that_are_inputs_parameters_or_twice_the_same(pipeline: str) -> None:
    model = Aliases()
    executable = mlcflow.compile(model, ROW, pipeline=pipeline)
    results = executable(ROW)
    torch.testing.assert_close(results, tuple(t.detach() for t in model(ROW)))
    assert len({result.data_ptr() for result in results}) == 5
    assert all(result.data_ptr() != ROW.data_ptr() for result in results)


def test_results_of_one_call_survive_the_next(pipeline: str) -> None:
    executable = mlcflow.compile(lambda a: torch.relu(a @ a.t()) + 1, ROW, pipeline=pipeline)
    first = executable(ROW)
    kept = first.clone()
    executable(ROW * 100)
    assert torch.equal(first, kept)


def test_a_model_without_inputs(pipeline: str) -> None:
    executable = mlcflow.compile(lambda: torch.arange(3.0) * 2, pipeline=pipeline)
    torch.testing.assert_close(executable(), torch.tensor([0.0, 2.0, 4.0]))


def test_parameters_are_shared_with_the_model(pipeline: str) -> None:
    model = torch.nn.Linear(4, 2)
    executable = mlcflow.compile(model, ROW, pipeline=pipeline)
    assert executable.parameters["weight"].data_ptr() == model.weight.data_ptr()
    with torch.no_grad():
        model.weight.mul_(3)
        model.bias.add_(1)
    executable.prepare()
    torch.testing.assert_close(executable(ROW), model(ROW).detach())


def test_parameters_stay_out_of_the_text() -> None:
    def stage_text(width: int) -> str:
        model = torch.nn.Linear(width, width)
        executable = mlcflow.compile(model, torch.ones(1, width), pipeline="reference")
        return str(executable.stages["simplify"])

    small, large = stage_text(8), stage_text(1024)
    assert len(large) - len(small) < 300  # longer numbers in types, nothing else
    assert "dense_resource" not in large


def test_buffers_change_as_in_training(pipeline: str) -> None:
    model, twin = (torch.nn.BatchNorm1d(4).train() for _ in range(2))
    executable = mlcflow.compile(model, ROW, pipeline=pipeline)
    assert model.num_batches_tracked == 0, "verification has changed the model"
    for batch in (ROW, ROW * 2):
        torch.testing.assert_close(executable(batch), twin(batch).detach())
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def add_in_place(x: torch.Tensor) -> torch.Tensor:
    x.add_(1)
    return x * 2


def test_inputs_change_as_in_the_model(pipeline: str) -> None:
    executable = mlcflow.compile(add_in_place, ROW.clone(), pipeline=pipeline)
    tensor, array = ROW.clone(), ROW.numpy().copy()
    gaps = torch.zeros(3, 8)[:, ::2].copy_(ROW)
    for value in (tensor, array, gaps):
        result = executable(value)
        np.testing.assert_array_equal(np.asarray(value), ROW.numpy() + 1)
        np.testing.assert_array_equal(np.asarray(result), (ROW.numpy() + 1) * 2)


def test_a_read_only_array_cannot_be_changed() -> None:
    executable = mlcflow.compile(add_in_place, ROW.clone(), pipeline="reference")
    frozen = ROW.numpy().copy()
    frozen.flags.writeable = False
    with pytest.raises(ExecutionError, match="'x': .* read-only"):
        executable(frozen)


class SameName(torch.nn.Module):
    """Changes a buffer and an input of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("x", torch.zeros(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.x.add_(x)
        x.mul_(10)
        return x + 1


def test_a_buffer_and_an_input_of_the_same_name() -> None:
    model = SameName()
    executable = mlcflow.compile(model, ROW.clone(), pipeline="reference")
    x = ROW.clone()
    torch.testing.assert_close(executable(x), ROW * 10 + 1)
    torch.testing.assert_close((model.x, x), (ROW, ROW * 10))


def test_stages_and_description() -> None:
    executable = mlcflow.compile(lambda a: a + 1, ROW, pipeline="reference")
    assert list(executable.stages) == ["simplify", "bufferize", "loops", "llvm"]
    assert "linalg.generic" in str(executable.stages["simplify"])
    assert "float32[3x4]" in repr(executable)
    with pytest.raises(KeyError, match="did you mean 'loops'"):
        executable.stages["loop"]
