"""What is wrong with a tensor function is said at its file and line, all at once."""

from __future__ import annotations

import inspect
import textwrap

import numpy as np
import pytest

import mlcflow
from mlcflow import ImportModelError, MlcflowError
from mlcflow import language as T

HEAD = """\
from mlcflow import language as T

def f(A: T.Tensor((8, 4), "float32"), I: T.Tensor((8,), "int32"), B: T.Tensor(("n",), "float32")):
    C = T.empty((8, 4), "float32")
    S = T.empty((8,), "float32")
    D = T.empty((B.shape[0],), "float32")
    for i in T.spatial(8):
        S[i] = 0.0
        for j in T.spatial(4):
            C[i, j] = A[i, j]
"""
FIRST = HEAD.count("\n") + 1

CASES = {
    "unknown name": ("C[i, j] = X[i, j]", "unknown name 'X'"),
    "near name": ("C[i, j] = AA[i, j]", "did you mean 'A'"),
    "wrong rank": ("C[i, j] = A[i]", "'A' has rank 2 (float32[8, 4]): expected 2 indices, found 1"),
    "wrong rank of the target": ("C[i] = 0.0", "'C' has rank 2"),
    "non-affine index": ("C[i, j] = A[i * j, 0]", "non-affine index 'i * j'"),
    "index from data": ("C[i, j] = A[I[i], 0]", "non-affine index 'I[i]'"),
    "index divided": ("C[i, j] = A[i // 2, j]", "non-affine index 'i // 2'"),
    "slice": ("C[i, j] = A[i, 0:2]", "a slice is no element"),
    "constant out of bounds": (
        "C[i, j] = A[8, j]",
        "index '8' of 'A' is out of bounds: expected 0 to 7, found 8 in dimension 0",
    ),
    "negative index": ("C[i, j] = A[i, -1]", "expected 0 to 3, found -1 in dimension 1"),
    "index out of bounds": ("C[i, j] = A[i + j, j]", "expected 0 to 7, found 0 to 10"),
    "target out of bounds": ("C[i, j + 1] = 0.0", "found 1 to 4 in dimension 1"),
    "open size": ("C[i, j] = B[i]", "expected a loop of extent n"),
    "open loop": ("D[n] = A[n, 0]", "expected 0 to 7, found n with n from 0 to n - 1"),
    "write to an argument": ("A[i, j] = 0.0", "'A' is an argument, which is read only"),
    "types of operands": (
        "C[i, j] = A[i, j] + I[i]",
        "+: expected operands of one type, found float32 ('A') and int32 ('I'); use cast",
    ),
    "type of the target": ("C[i, j] = I[i]", "'C' holds float32: expected float32, found int32"),
    "fraction into integers": ("C[i, j] = I[i] + 0.5", "expected int32, found the number 0.5"),
    "true division": ("C[i, j] = I[i] / 2", "/: expected floating-point operands, found int32"),
    "floor of floats": ("C[i, j] = A[i, j] // 2", "expected signed or unsigned operands"),
    "condition": ("C[i, j] = 1.0 if A[i, j] else 0.0", "expected a bool condition, found float32"),
    "and of floats": ("C[i, j] = 1.0 if A[i, j] and True else 0.0", "expected bool operands"),
    "reduction without accumulation": (
        "S[i] = A[i, j]",
        "'S' is overwritten in every iteration of 'j'",
    ),
    "recurrence": ("S[i] = S[i] * 0.5 + A[i, j]", "'S' is overwritten in every iteration of 'j'"),
    "shifted read of the target": ("S[j + 1] = S[j] + 1.0", "'S' is read at another element"),
    "diagonal write": ("C[j, j] = 0.0", "expected loop variables in one dimension each"),
    "skewed write": (
        "for k, l in T.grid(4, 4): S[k + l] = 0.0",
        "expected loop variables in one dimension each",
    ),
    "spatial axis reduced": (
        "for k in T.spatial(4): S[i] += A[i, k]",
        "'k' is a spatial axis, yet it does not choose",
    ),
    "reduce axis written": (
        "for k in T.reduce(4): C[i, k] = A[i, k]",
        "'k' is a reduce axis, yet it chooses",
    ),
    "the whole tensor": ("C[i, j] = A", "expected a number, found the whole of 'A'"),
    "function of tensors": ("C[i, j] = T.exp(A)", "found the whole of 'A'"),
    "unknown function": ("C[i, j] = print(A[i, j])", "'print' cannot be called on elements"),
    "unknown word": ("C[i, j] = T.gelu(A[i, j])", "has no 'gelu'"),
    "number of operands": ("C[i, j] = T.maximum(A[i, j])", "expected 2 operands, found 1"),
    "unknown type": ("C[i, j] = T.cast(A[i, j], 'float8')", "unknown element type 'float8'"),
    "tensor attribute": ("C[i, j] = A.T[j, i]", "a tensor has shape, dtype and ndim only"),
    "if statement": ("if i > 2: C[i, j] = 0.0", "unsupported statement 'if i > 2:'"),
    "while statement": ("while True: C[i, j] = 0.0", "unsupported statement 'while True:'"),
    "statement without effect": ("A[i, j]", "it has no effect"),
    "comprehension": ("C[i, j] = sum([A[i, k] for k in range(4)])", "unsupported expression"),
    "loop over a tensor": ("for a in A: C[i, j] = a", "expected a loop over grid"),
    "loop with a start": ("for k in range(1, 4): C[i, k] = 0.0", "loops start at 0"),
    "loop variable twice": ("for i in T.spatial(4): C[i, j] = 0.0", "'i' is bound already"),
    "loop variables": ("for k, l in T.grid(8, 4, 2): C[k, l] = 0.0", "expected 3 loop variables"),
    "empty loop": ("for k in T.spatial(0): C[i, k] = 0.0", "expected a positive extent"),
    "scalar that changes": ("i += 1", "'i' cannot change"),
    "name bound twice": ("C = A[i, j]", "'C' is bound already"),
    "buffer in a loop": ("E = T.empty((4,), 'float32')", "expected outside of loops"),
    "keyword": ("C[i, j] = max(A[i, j], key=1.0)", "takes no keyword arguments"),
    "return in a loop": ("return C", "expected 'return' after the loops"),
    "init that depends on the reduction": (
        "with T.init(): S[i] = A[i, j]",
        "depends on no reduction loop",
    ),
    "other with": ("with open('x'): C[i, j] = 0.0", "expected 'with init():'"),
    "stale": (
        "old = C[i, j]; C[i, j] = 1.0; C[i, j] = old",
        "'old' was read from 'C', which has been written since",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message_and_line(name: str) -> None:
    body, message = CASES[name]
    indent = "            "
    text = HEAD
    for statement in body.split("; "):
        text += f"{indent}{statement}\n"
    if name == "open loop":
        text = HEAD + f"    for n in T.spatial(B.shape[0]):\n        {body}\n"
    with pytest.raises(ImportModelError) as caught:
        mlcflow.from_python(text + "    return C\n", file="program.py")
    lines = str(caught.value).splitlines()
    found = [line for line in lines if line.startswith("  program.py:")]
    last = FIRST + body.count("; ") + (name == "open loop")
    assert any(f"  program.py:{last}: " in line and message in line for line in found), lines


ENDINGS = {
    "missing initial value": (
        """
        for i, j in T.grid(8, T.reduce(4)):
            S[i] += A[i, j]
        return S
        """,
        2,
        "'S' is accumulated into, but has no initial value",
    ),
    "read before written": (
        """
        for i in T.spatial(8):
            R[i] = S[i]
        return R
        """,
        2,
        "'S' is read before all of it is written",
    ),
    "partly written": (
        """
        for i in T.spatial(4):
            S[i] = 0.0
            S[i + 3] = 1.0
        return S
        """,
        4,
        "'S' is returned, but not all of it is written",
    ),
    "never written": ("return S", 1, "'S' is returned, but not all of it is written"),
    "returns an argument": ("return A", 1, "expected buffers made with empty, found A"),
    "no return": ("pass", -1, "expected 'return'"),
    "unknown size": ('Q = T.empty(("m",), "float32")', 1, "unknown size 'm'"),
    "read before a loop that writes": (
        """
        for i in T.spatial(8):
            S[i] = 0.0
            old = S[i]
            for k in T.reduce(4):
                S[i] = old + A[i, k]
        return S
        """,
        5,
        "'old' was read from 'S', which has been written since",
    ),
    "two accumulations that do not commute": (
        """
        for i, k in T.grid(8, T.reduce(4)):
            with T.init():
                S[i] = 1.0
            S[i] += A[i, k]
            S[i] *= A[i, k]
        return S
        """,
        5,
        "'S' carries a value from one iteration",
    ),
    "entangled loops": (
        """
        for i in T.spatial(7):
            S[i] = A[i, 0]
            R[i] = S[i + 1]
        return S, R
        """,
        3,
        "'S' carries a value from one iteration to another statement's",
    ),
    "temporary shared by iterations": (
        """
        for i in T.spatial(8):
            one[()] = A[i, 0]
            S[i] = one[()]
        return S
        """,
        2,
        "'one' is overwritten in every iteration of 'i'",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_across_statements(name: str) -> None:
    body, line, message = ENDINGS[name]
    head = (
        "from mlcflow import language as T\n\n"
        'def f(A: T.Tensor((8, 4), "float32")):\n'
        '    S = T.empty((8,), "float32")\n'
        '    R = T.empty((8,), "float32")\n'
        '    one = T.empty((), "float32")\n'
    )
    text = head + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
    with pytest.raises(ImportModelError) as caught:
        mlcflow.from_python(text, file="program.py")
    expected = 3 if line < 0 else head.count("\n") + line
    assert f"program.py:{expected}: " in str(caught.value)
    assert message in str(caught.value)


def test_every_problem_at_its_line_of_this_file() -> None:
    start = inspect.currentframe().f_lineno
    with pytest.raises(ImportModelError) as caught:

        @mlcflow.tensor_function
        def wrong(A: T.Tensor((8, 4), "float32"), b: "T.Tensor((4,), 'int32')", c):  # noqa: UP037
            C = T.empty((8, 4), "float32")
            for i, j in T.grid(8, 4):
                C[i, j] = D[i, j] + A[j]  # noqa: F821
                C[i, 4] = A[i, j] + b[j]
            return C

    message = str(caught.value)
    assert message.startswith("tensor function 'wrong': 5 problems\n")
    for offset, text in [
        (4, "argument 'c': expected a type such as"),
        (7, "unknown name 'D'"),
        (7, "'A' has rank 2"),
        (8, "index '4' of 'C' is out of bounds"),
        (8, "+: expected operands of one type, found float32 ('A') and int32 ('b')"),
    ]:
        assert f"  {__file__}:{start + offset}: {text}" in message
    lines = message.splitlines()
    shown = next(number for number, line in enumerate(lines) if "unknown name 'D'" in line)
    assert lines[shown + 1] == "      C[i, j] = D[i, j] + A[j]  # noqa: F821"
    assert lines[shown + 2] == "                ^"


SIGNATURES = {
    "def f(A): return A": "argument 'A': expected a type such as",
    "def f(A: 3): return A": "argument 'A': expected a type",
    "def f(*A: T.Tensor((3,), 'int8')): return A": "expected positional arguments only",
    "def f(A: T.Tensor((3,), 'int8') = 0): return A": "no default value",
    "def f(A: T.Tensor((3,), 'int3')): return A": "unknown element type 'int3'",
    "def f(A: T.Tensor((3, 0), 'int8')): return A": "expected a positive size",
    "def f(A: T.Tensor((3,))): return A": "expected a shape and an element type",
}


@pytest.mark.parametrize("text", SIGNATURES)
def test_signatures(text: str) -> None:
    with pytest.raises(ImportModelError) as caught:
        mlcflow.from_python(f"from mlcflow import language as T\n{text}\n")
    assert SIGNATURES[text] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "invalid syntax"),
        ("x = 1", "expected one function, found 0"),
        ("import os\ndef f(): pass", "expected imports of mlcflow, got import os"),
        ("from os import path\ndef f(): pass", "expected imports of mlcflow"),
    ],
)
def test_texts(text: str, message: str) -> None:
    with pytest.raises(ImportModelError) as caught:
        mlcflow.from_python(text)
    assert message in str(caught.value)


def test_nothing_of_a_text_is_executed(tmp_path) -> None:
    trap = tmp_path / "trap"
    text = f"import mlcflow\nopen({str(trap)!r}, 'w')\ndef f():\n    open({str(trap)!r}, 'w')\n"
    with pytest.raises(ImportModelError, match="has no effect"):
        mlcflow.from_python(text)
    assert not trap.exists()


def test_functions_without_source() -> None:
    with pytest.raises(ImportModelError, match="its source cannot be read"):
        mlcflow.tensor_function(eval("lambda A: A"))
    with pytest.raises(ImportModelError, match="made with 'def'"):
        mlcflow.tensor_function(lambda A: A)


def test_arrays_from_outside() -> None:
    weights = np.ones(4)
    with pytest.raises(ImportModelError, match="'weights' is a ndarray from outside"):

        @mlcflow.tensor_function
        def uses(A: T.Tensor((4,), "float32")):
            B = T.empty((4,), "float32")
            for i in T.spatial(4):
                B[i] = A[i] * weights[i]
            return B


def test_compiling_takes_no_example_inputs() -> None:
    function = mlcflow.einsum_function("B[i] = A[i]", A=((4,), "float32"))
    with pytest.raises(MlcflowError, match="expected no example inputs, got 1"):
        mlcflow.compile(function, np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C[i] = A[i] * q", "unknown name 'q'"),
        ("C[i + 1] = A[i]", "indexed with 'i + 1', expected a name"),
        ("C[i] = A[j]", "do not say how far i runs"),
        ("C[i]", "expected one assignment"),
        ("C[i] = A[i] = 0", "expected one assignment"),
        ("C[i] = A[i, 0]", "'A' has rank 1"),
        ("C = A[i]", "expected an element to be written"),
        ("C[i] = (", "was never closed"),
    ],
)
def test_einsum(text: str, message: str) -> None:
    with pytest.raises(ImportModelError) as caught:
        mlcflow.einsum_function(text, A=((4,), "int32"))
    assert message in str(caught.value)
