"""Kernels that were compiled in a process of its own."""

import torch


def test_a_worker_makes_what_the_driver_loads(gpu, build):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU()).eval()
    x = torch.randn(6, 16)
    here, there = build(model, x), build(model, x, isolate=True)
    torch.testing.assert_close(there(x), model(x))
    assert there.assembly() == here.assembly()
    assert [str(there.stages[name]) for name in there.stages] == [
        str(here.stages[name]) for name in here.stages
    ]
