"""Whether a compiled model does what the model does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from mlcflow.check.compare import compare
from mlcflow.check.rounding import between, likely
from mlcflow.runtime.dtypes import is_tensor
from mlcflow.runtime.executable import Executable
from mlcflow.tools.model_file import as_array


def check_executable(
    executable: Executable, model: Any, args: tuple, kwargs: dict[str, Any]
) -> None:
    """Raise ``VerificationError`` where the executable differs from the torch ``model``.

    Compares the results, and what the model writes into its inputs and its buffers. Works on
    copies: neither the arguments nor the model are changed. An ``ExportedProgram`` knows the
    inputs it was exported with, which are taken where none are given. How far results may be
    apart is what rounding can do on these inputs; see :mod:`mlcflow.check.rounding`.
    """
    import torch
    from torch.utils import _pytree as pytree

    original = model
    if isinstance(model, torch.export.ExportedProgram):
        original = model.module()
        if not args and not kwargs and model.example_inputs is not None:
            args, kwargs = model.example_inputs
    if isinstance(original, torch.nn.Module) and executable.mutated_parameters:
        original = copy.deepcopy(original)  # running it would change its statistics
    before = {name: executable.parameters[name].clone() for name in executable.mutated_parameters}
    with torch.no_grad():
        ours, theirs = copy.deepcopy((args, kwargs)), copy.deepcopy((args, kwargs))
        expected = pytree.tree_leaves(original(*theirs[0], **theirs[1]))
        actual = pytree.tree_leaves(executable(*ours[0], **ours[1]))
        limits = _limits(executable, args, kwargs, expected)
        for name, value in before.items():
            changed = executable.parameters[name]
            actual.append(changed.clone())
            expected.append(_named_tensor(original, name))
            changed.copy_(value)  # the model itself has not been run
        actual += [leaf for leaf in pytree.tree_leaves(ours) if is_tensor(leaf)]
        expected += [leaf for leaf in pytree.tree_leaves(theirs) if is_tensor(leaf)]
    compare(actual, expected, limits)


def _limits(
    executable: Executable, args: tuple, kwargs: dict[str, Any], expected: list
) -> list[np.ndarray]:
    """How far the results may be apart; empty where some are no tensors."""
    if not all(is_tensor(each) for each in expected):
        return []
    arrays = [as_array(each.resolve_conj().resolve_neg()) for each in expected]
    how = likely(executable.pipeline)
    limits = between(executable.imported, *copy.deepcopy((args, kwargs)), arrays, how)
    return limits if len(limits) == len(expected) else []


def _named_tensor(model: Any, name: str) -> Any:
    """The parameter or buffer of that dotted name."""
    *path, last = name.split(".")
    return getattr(model.get_submodule(".".join(path)), last)
