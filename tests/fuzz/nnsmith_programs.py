"""Models that NNSmith draws (Liu et al., ASPLOS 2023, https://arxiv.org/abs/2207.13066)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drawn:
    """A model of NNSmith that is called like a :class:`random_programs.Program`."""

    net: torch.nn.Module
    text: str
    arrays: tuple[torch.Tensor, ...]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(array.clone() for array in self.arrays)

    def model(self) -> torch.nn.Module:
        return self.net

    def __str__(self) -> str:
        shapes = "; ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{self.text}\n# inputs: {shapes}"


def draw(seed: int, nodes: int = 6) -> Drawn:
    """A model of about so many operations. Needs the package ``nnsmith``."""
    from nnsmith.graph_gen import model_gen
    from nnsmith.materialize import Model

    torch.manual_seed(seed)
    random.seed(seed)
    kind = Model.init("torch")
    generator = model_gen(
        opset=kind.operators(), method="symbolic-cinit", seed=seed, max_nodes=nodes, timeout_ms=9999
    )
    graph = generator.make_concrete()
    net = kind.from_gir(graph).torch_model.eval().requires_grad_(False)
    # These ask for the numbers of every value, of which an export has none.
    net.debug_numeric, net.check_intermediate_numeric = (lambda values: None), False
    names = graph.input_var()
    given = net.get_random_inps()
    return Drawn(net, graph.pretty(), tuple(given[name] for name in names))
