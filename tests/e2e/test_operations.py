"""Single operations whose lowering once crashed, or gave another result than PyTorch."""

from __future__ import annotations

import copy
import gc
import re

import pytest
import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import mlcflow
from mlcflow.check.compare import compare
from mlcflow.compiler import import_model

FLOATS = torch.linspace(-2, 2, 15).reshape(5, 3)
BYTES = torch.tensor([250, 3, 127, 128, 0, 200], dtype=torch.uint8)
SIGNED = torch.tensor([-128, 3, 127, -7, 5, 100], dtype=torch.int8)
INTEGERS = torch.tensor([2**63 - 2, -(2**63) + 1, 2**30, -3])
ROWS = torch.tensor([-1, -2, 0])


def agree(pipeline, function, *inputs):
    """Compile, call, and compare results and what happened to the inputs; gives the results."""
    ours, theirs = copy.deepcopy(inputs), copy.deepcopy(inputs)
    executable = mlcflow.compile(function, *inputs, pipeline=pipeline, verify=False)
    actual, expected = executable(*ours), function(*theirs)
    assert pytree.tree_structure(actual) == pytree.tree_structure(expected)
    compare(pytree.tree_leaves(actual), pytree.tree_leaves(expected))
    compare(list(ours), list(theirs))
    return actual


VALUES = {
    "cumsum": (lambda x: x.to(torch.int32).cumsum(0), FLOATS),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, 1), FLOATS),
    "slice_scatter": (lambda x: torch.slice_scatter(x, x[:2] * 0, 0, 1, 3), FLOATS),
    "pad_negative": (lambda x: F.pad(x, (-1, 2, 1, -2)), FLOATS),
    "index_put_negative": (lambda x, i: x.index_put((i,), torch.ones(3, 3)), FLOATS, ROWS),
    "index_put_two": (lambda x, i: x.index_put((i, i), torch.ones(3)), FLOATS, ROWS),
    "index_int32": (lambda x, i: x[i], FLOATS, ROWS.int()),
    "index_put_mask": (
        lambda x, m: x.index_put((m,), torch.ones(2, 3)),
        FLOATS,
        torch.tensor([True, False, False, True, False]),
    ),
    "mm_int8": (lambda x: x.view(2, 3) @ x.view(3, 2), SIGNED),
    "mul_int8": (lambda x: x * 3, SIGNED),
    "sub_alpha_int8": (lambda x: torch.sub(x, x, alpha=2), SIGNED),
    "max_uint8": (lambda x: x.max(), BYTES),
    "sum_uint8": (lambda x: x.sum(), BYTES),
    "divide_uint8": (lambda x: x / 255, BYTES),
    "compare_uint8": (lambda x: x > 200, BYTES),
    "mixed_uint8": (lambda x: torch.where(x > 100, x, torch.ones(6)), BYTES),
    "any_int8": (lambda x: x.any(), SIGNED),
    "square_int8": (lambda x: x**2, SIGNED),
    "floor_int64": (lambda x: torch.div(x, 2**30, rounding_mode="floor"), INTEGERS),
    "floor_negative": (lambda x: x // -7, INTEGERS),
    "to_bfloat16": (lambda x: (x.double().bfloat16(), x.double().half()), FLOATS),
    "relu_backward": (
        lambda g, x: torch.ops.aten.threshold_backward(g, x, 0.5),
        torch.arange(15).reshape(5, 3),
        FLOATS,
    ),
    "complex_sum": (lambda x: torch.complex(x, x * 2).sum(1), FLOATS),
    "reciprocal_of_zero": (lambda x: 1 / x, torch.tensor([0.0, 2.0])),
    "grid_sample": (
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        FLOATS.reshape(1, 1, 5, 3),
        torch.linspace(-3, 3, 12).reshape(1, 2, 3, 2),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(pipeline, name):
    function, *inputs = VALUES[name]
    agree(pipeline, function, *inputs)


def test_inputs_are_not_overwritten(pipeline):
    agree(pipeline, lambda x: torch.slice_scatter(x, x[:2] + 1, 0, 1, 3), FLOATS)
    agree(pipeline, lambda x: torch.linalg.det(x @ x.T + torch.eye(5)), FLOATS)


def test_mutated_input_that_is_also_returned(pipeline):
    agree(pipeline, lambda x: x.add_(1), FLOATS.clone())
    agree(pipeline, lambda x, y: x.copy_(y), torch.zeros(5, 3), FLOATS)


def test_same_result_twice(pipeline):
    def both(x):
        y = x + 1
        return y, y, x

    agree(pipeline, both, FLOATS)


def test_numbers_and_structures(pipeline):
    def mixed(x):
        return {"sum": x.sum(), "sizes": [x.shape[0], None, 2.5], "self": x}

    agree(pipeline, mixed, FLOATS)
    assert agree(pipeline, lambda x: int(x), torch.tensor(7)) == 7
    assert agree(pipeline, lambda x, n: float(x) * n, torch.tensor(1.5), 2) == 3.0


def test_size_that_only_the_data_tells(pipeline):
    assert agree(pipeline, torch.nonzero, torch.tensor([0, 1, 0, 2])).dtype == torch.int64


WRONG_INDICES = {
    "embedding": lambda x, i: F.embedding(i, x),
    "index": lambda x, i: x[i],
    "index_select": lambda x, i: torch.index_select(x, 0, i),
    "gather": lambda x, i: torch.gather(x, 0, i[:, None]),
    "take": lambda x, i: torch.take(x, i * 3),
    "index_put": lambda x, i: x.index_put((i,), torch.ones(2, 3)),
    "index_put_two": lambda x, i: x.index_put((i, i), torch.ones(2)),
    "scatter": lambda x, i: torch.scatter(x, 0, i[:, None], torch.ones(2, 1)),
    "nll_loss": lambda x, i: F.nll_loss(x.T[:2], i),
}


@pytest.mark.parametrize("name", WRONG_INDICES)
def test_wrong_index(pipeline, name):
    function = WRONG_INDICES[name]
    good = torch.tensor([1, 0])
    executable = mlcflow.compile(function, FLOATS, good, pipeline=pipeline, verify=False)
    for bad in ([0, 5], [-6, 0], [10**12, 0]):
        with pytest.raises(mlcflow.ExecutionError, match="index is out of range"):
            executable(FLOATS, torch.tensor(bad))
    compare([executable(FLOATS, good)], [function(FLOATS, good)])


def test_integer_division_by_zero(pipeline):
    lowest = torch.tensor([-(2**63), 7])
    executable = mlcflow.compile(
        lambda x, y: x // y, lowest, torch.tensor([2, 2]), pipeline=pipeline, verify=False
    )
    with pytest.raises(mlcflow.ExecutionError, match="divided by zero"):
        executable(lowest, torch.tensor([1, 0]))
    assert executable(lowest, torch.tensor([-1, -2])).tolist() == [-(2**63), -4]


def test_mask_with_another_number_of_values(pipeline):
    function, x, mask = VALUES["index_put_mask"]
    executable = mlcflow.compile(function, x, mask, pipeline=pipeline, verify=False)
    with pytest.raises(mlcflow.ExecutionError, match="number of values differs"):
        executable(x, ~mask)


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_resized_input_is_refused():
    with pytest.raises(mlcflow.ImportModelError, match=r"resizes it from \[3, 4\] to \[12\]"):
        import_model(lambda x: torch.arange(12, out=x), (torch.zeros(3, 4, dtype=torch.int64),))


def unsupported(x):
    y = torch.lgamma(x)
    z = torch.erfinv(x)
    return y + z + torch.lgamma(y)


def test_unsupported_operations_all_at_once():
    with pytest.raises(mlcflow.ImportModelError) as caught:
        import_model(unsupported, (FLOATS,))
    message = str(caught.value)
    first = unsupported.__code__.co_firstlineno
    assert "2 operation(s)" in message
    found = re.findall(r"torch\.aten\.(\w+)\(.*\) x (\d), at (.*)", message)
    lines = {name: re.findall(r"test_operations\.py:(\d+)", where) for name, _, where in found}
    assert lines == {"lgamma": [str(first + 1), str(first + 3)], "erfinv": [str(first + 2)]}


@pytest.mark.parametrize("pipeline", ["reference", "cpu"])
def test_a_kernel_does_not_take_the_place_of_a_c_function(pipeline):
    # LLVM calls `exp` of the C library for f64; a kernel of that name called itself.
    x = torch.rand(2, 8, dtype=torch.float64)
    exe = mlcflow.compile(lambda x: x.exp(), x, pipeline=pipeline)
    torch.testing.assert_close(exe(x), x.exp())


def test_the_garbage_collector_is_off_while_a_model_is_traced_and_then_as_before() -> None:
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(gc.isenabled())
        return x + 1

    def failing(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")

    for before in (gc.enable, gc.disable):
        before()
        try:
            was = gc.isenabled()
            mlcflow.compile(model, torch.zeros(3), pipeline="reference", verify=False)
            assert gc.isenabled() is was
            with pytest.raises(mlcflow.ImportModelError):
                mlcflow.compile(failing, torch.zeros(3), pipeline="reference")
            assert gc.isenabled() is was
        finally:
            gc.enable()
    assert seen and not any(seen)


def test_inputs_in_a_tuple_that_the_model_does_not_take() -> None:
    inputs = (torch.zeros(3), torch.zeros(3))
    with pytest.raises(mlcflow.ImportModelError, match=r"compile\(model, \*inputs\)"):
        mlcflow.compile(lambda x, y: x + y, inputs)
    assert mlcflow.compile(lambda pair: pair[0] + pair[1], inputs)(inputs).tolist() == [0, 0, 0]
