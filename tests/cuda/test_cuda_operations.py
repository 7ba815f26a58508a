"""Whatever the reference pipeline runs, the pipeline for GPUs runs: on a driver without a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from test_operations import FLOATS, VALUES, WRONG_INDICES
from torch.utils import _pytree as pytree

import mlcflow
from mlcflow.check.compare import compare


def agree(build, function, *inputs):
    """Compile, call, and compare results and what happened to the inputs."""
    ours, theirs = copy.deepcopy(inputs), copy.deepcopy(inputs)
    executable = build(function, *inputs)
    actual, expected = executable(*ours), function(*theirs)
    assert pytree.tree_structure(actual) == pytree.tree_structure(expected)
    compare(pytree.tree_leaves(actual), pytree.tree_leaves(expected))
    compare(list(ours), list(theirs))
    return executable


@pytest.mark.parametrize("name", VALUES)
def test_values(build, gpu, name):
    function, *inputs = VALUES[name]
    agree(build, function, *inputs)
    assert gpu.launched


@pytest.mark.parametrize("name", WRONG_INDICES)
def test_wrong_index(build, name):
    function = WRONG_INDICES[name]
    good = torch.tensor([1, 0])
    executable = build(function, FLOATS, good)
    for bad in ([0, 5], [-6, 0], [10**12, 0]):
        with pytest.raises(mlcflow.ExecutionError, match="index is out of range"):
            executable(FLOATS, torch.tensor(bad))
    compare([executable(FLOATS, good)], [function(FLOATS, good)])


def test_size_that_only_the_data_tells(build):
    agree(build, torch.nonzero, torch.tensor([0, 1, 0, 2]))


def test_mutated_input(build):
    agree(build, lambda x: x.add_(1), FLOATS.clone())


def test_structures(build):
    agree(build, lambda x: {"sum": x.sum(), "sizes": [x.shape[0], None, 2.5]}, FLOATS)
