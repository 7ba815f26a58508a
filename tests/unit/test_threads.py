"""One executable, several threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import ExecutionError

THREADS = 8


def in_threads(work) -> None:
    """Run ``work(number)`` in all threads at once; raise what any of them raises."""
    barrier = threading.Barrier(THREADS)

    def start(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(start, range(THREADS)))


def test_each_thread_gets_its_own_results(pipeline: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    executable = mlcflow.compile(model, torch.randn(8, 16), pipeline=pipeline)

    def work(number: int) -> None:
        x = torch.full((8, 16), float(number))
        expected = model(x).detach()
        for _ in range(50):
            torch.testing.assert_close(executable(x), expected)
            np.testing.assert_allclose(executable(x.numpy()), expected, rtol=1e-4, atol=1e-5)

    in_threads(work)


def test_results_allocated_by_the_function(pipeline: str) -> None:
    executable = mlcflow.compile(torch.nonzero, torch.ones(64), pipeline=pipeline)

    def work(number: int) -> None:
        x = np.zeros(64, np.float32)
        x[:number] = 1
        for _ in range(50):
            np.testing.assert_array_equal(executable(x)[:, 0], np.arange(number))

    in_threads(work)


def test_a_failure_stays_in_its_thread(pipeline: str) -> None:
    table = torch.nn.Embedding(10, 4)
    executable = mlcflow.compile(table, torch.tensor([1, 2]), pipeline=pipeline)

    def work(number: int) -> None:
        index = torch.tensor([3, 10 if number % 2 else 9])
        for _ in range(50):
            if number % 2:
                with pytest.raises(ExecutionError):
                    executable(index)
            else:
                torch.testing.assert_close(executable(index), table(index).detach())

    in_threads(work)


def test_preparing_again_while_others_call(pipeline: str) -> None:
    model = torch.nn.Linear(16, 16)
    executable = mlcflow.compile(model, torch.ones(4, 16), pipeline=pipeline)
    x = torch.randn(4, 16)
    expected = model(x).detach()

    def work(number: int) -> None:
        for _ in range(20):
            if number == 0:
                executable.prepare()
            torch.testing.assert_close(executable(x), expected)

    in_threads(work)
