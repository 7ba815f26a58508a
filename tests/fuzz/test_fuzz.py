"""Random models agree with PyTorch in whatever way they are compiled.

The seeds are always the same here. To look for new findings:
``python tests/fuzz/fuzz.py --seconds=600``, with ``--source=nnsmith`` for models of NNSmith, or
``pytest tests/fuzz --hypothesis-profile=thorough``.
"""

from __future__ import annotations

import importlib.util
import random

import pytest
import torch
from fuzz import check, drawn, hunt
from hypothesis import given
from hypothesis import strategies as st
from random_operations import MAKERS
from random_pipelines import varied
from random_programs import Input, Program, Ref, Step, draw

from mlcflow import Target

FIRST, MODELS = 20260, 16
"""Seeds of the models that are compiled each time: about a minute of one core."""


@pytest.mark.parametrize("half", [0, 1])
def test_random_models(half: int) -> None:
    seeds = range(FIRST + half, FIRST + MODELS, 2)
    print(f"seeds {seeds}")
    found = list(hunt(seeds))
    assert [str(each) for each in found if each.kind in ("wrong", "crash")] == []
    assert sum(each.kind == "right" for each in found) >= len(found) // 2


@given(data=st.data())
def test_models_that_hypothesis_draws(data: st.DataObject) -> None:
    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1))

    program = draw(choose, MAKERS, 4)
    problem = check(program, choose)
    assert not problem or problem.startswith("unsupported"), f"{problem}\n{program}"


@pytest.mark.skipif(not importlib.util.find_spec("nnsmith"), reason="needs nnsmith")
def test_models_of_nnsmith() -> None:
    found = list(hunt(range(4), "nnsmith"))
    assert [str(each) for each in found if each.kind in ("wrong", "crash")] == []


def test_programs_print_what_they_run() -> None:
    for seed in range(40):
        program = drawn(seed, "random")
        names: dict = {}
        exec(str(program), names)
        inputs = names["inputs"]
        pairs = zip(inputs, program.tensors(), strict=True)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
        pairs = zip(names["model"](*inputs), program.model()(*inputs), strict=True)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def test_a_finding_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is wrong because of one step ends as that step."""
    import fuzz

    steps = (
        Step("torch.relu", (Ref(0),)),
        Step("torch.sin", (Ref(1),)),
        Step("torch.cat", ([Ref(2), Ref(1)], 0)),
        Step("torch.exp", (Ref(2),)),
    )
    program = Program((Input((3,), "float32", 1),), steps, (3, 4))

    def caught(program: Program, seed: int) -> str:
        return "cpu: wrong" if any(s.function == "torch.sin" for s in program.steps) else ""

    monkeypatch.setattr(fuzz, "_caught", caught)
    smaller, _ = fuzz._reduce(program, "cpu: wrong", 0)
    assert [step.function for step in smaller.steps] == ["torch.sin"]


def test_the_models_and_pipelines_are_of_many_kinds() -> None:
    functions, said = set(), set()
    for seed in range(300):
        choose = random.Random(seed).randrange
        functions |= {step.function for step in draw(choose, MAKERS).steps}
        said.add(varied(choose, Target.host())[0])
    assert len(functions) >= 60 and len(said) >= 290


def test_a_process_that_ends_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.WORKER", ("-c", "import os; os.abort()"))
    (found,) = hunt([1])
    assert found.kind == "crash" and "-6" in found.problem and "def model" in found.program
