"""A small GPT on characters, trained on the documentation strings that Python carries.

The compiled model must write the same text as PyTorch, character by character.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlcflow.errors import MlcflowError, VerificationError
from mlcflow.examples.threads import one_thread
from mlcflow.pipeline import Pipeline
from mlcflow.report.progress import compile_and_tell, working
from mlcflow.report.table import table
from mlcflow.report.timing import duration

SEED = 0
PROMPT = "Return the "
MODULES = ("builtins", "itertools", "math", "os", "random")
"""Modules of the standard library whose documentation is learned."""


def standard_library_text() -> str:
    """The documentation strings of ``MODULES``: printable ASCII, each once."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for member in [module, *vars(module).values()]:
            members = vars(member).values() if inspect.isclass(member) else ()
            for each in (member, *members):
                text = each.__doc__ if callable(each) or inspect.ismodule(each) else None
                if isinstance(text, str) and _is_plain(text):
                    found[inspect.cleandoc(text)] = None
    return "\n\n".join(found)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.replace("\n", "").isprintable()


class Block(nn.Module):
    """Causal attention and a feed-forward layer: ``float32[N, T, width]`` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, width = x.shape
        heads = (n, t, self.heads, width // self.heads)
        parts = self.query_key_value(self.norm_attention(x)).chunk(3, dim=-1)
        query, key, value = (part.view(heads).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        return x + self.feed(self.norm_feed(x))


class CharGPT(nn.Module):
    """A decoder-only transformer: ``int64[N, context]`` to ``float32[N, context, characters]``."""

    def __init__(
        self, characters: int, context: int = 48, width: int = 96, heads: int = 4, layers: int = 2
    ) -> None:
        super().__init__()
        self.context = context
        self.embed_character = nn.Embedding(characters, width)
        self.embed_position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.embed_character(codes) + self.embed_position.weight
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def train(model: CharGPT, codes: torch.Tensor, steps: int, batch: int = 32) -> float:
    """Train on random pieces of ``codes``, ``int64[length]``; returns the last loss."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, total_steps=steps, pct_start=0.1
    )
    window = torch.arange(model.context + 1)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(codes) - model.context, (batch, 1), generator=generator)
        pieces = codes[starts + window]
        logits = model(pieces[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss.detach())


def write(
    model: Callable[[torch.Tensor], torch.Tensor], prompt: torch.Tensor, length: int
) -> tuple[list[int], float]:
    """``length`` characters after ``prompt``, ``int64[context]``; seconds a character.

    Each is drawn from the probabilities that ``model`` gives, cooled to 0.7, with the same
    random numbers each time.
    """
    generator = np.random.default_rng(SEED)
    window, written = prompt.clone().unsqueeze(0), []
    seconds = 0.0
    with torch.inference_mode():
        model(window)
        for _ in range(length):
            begin = time.perf_counter()
            logits = model(window)
            seconds += time.perf_counter() - begin
            weights = np.exp(logits[0, -1].double().numpy() / 0.7)
            share = np.cumsum(weights) / weights.sum()
            code = min(int(np.searchsorted(share, generator.random())), len(share) - 1)
            written.append(code)
            window = torch.cat([window[:, 1:], torch.tensor([[code]])], dim=1)
    return written, seconds / length


def run(
    pipelines: list[Pipeline], say: Callable[[str], None], *, quick: bool, dump_dir: Path | None
) -> dict[str, Any]:
    """Train, compile with each pipeline, and write the same text with each."""
    text = standard_library_text()
    if not text:
        raise MlcflowError("this Python carries no documentation strings (python -OO removes them)")
    characters = sorted(set(text))
    codes = torch.tensor([characters.index(character) for character in text])
    torch.manual_seed(SEED)
    model = CharGPT(len(characters))
    steps, length = (20, 20) if quick else (500, 300)
    with one_thread():
        _train_and_tell(model, codes, steps, len(text), say)
        padded = PROMPT.rjust(model.context)
        prompt = torch.tensor([characters.index(character) for character in padded])
        expected, seconds = write(model, prompt, length)
        written = "".join(characters[code] for code in expected)
        rows: list[dict[str, Any]] = [{"run_by": "PyTorch", "seconds": seconds}]
        for pipeline in pipelines:
            rows.append(_run_pipeline(model, prompt, pipeline, expected, say, dump_dir))
    say("\n" + _indent(PROMPT + written) + "\n")
    cells = [(row["run_by"], duration(row["seconds"])) for row in rows]
    say(table(("run by", "time a character"), cells))
    say(f"\nThe compiled models write the same {length} characters as PyTorch.")
    return {"prompt": PROMPT, "text": written, "rows": rows}


def _train_and_tell(
    model: CharGPT, codes: torch.Tensor, steps: int, length: int, say: Callable[[str], None]
) -> None:
    begin = time.perf_counter()
    with working("training the GPT"):
        loss = train(model, codes, steps)
    count = sum(parameter.numel() for parameter in model.parameters())
    say(
        f"GPT: {count} parameters, {steps} steps of training on {length} characters of "
        f"documentation in {duration(time.perf_counter() - begin)}, loss {loss:.2f}"
    )


def _run_pipeline(
    model: CharGPT,
    prompt: torch.Tensor,
    pipeline: Pipeline,
    expected: list[int],
    say: Callable[[str], None],
    dump_dir: Path | None,
) -> dict[str, Any]:
    say(f"GPT, pipeline {pipeline.name}:")
    folder = dump_dir / f"GPT-{pipeline.name}" if dump_dir else None
    executable, compilation = compile_and_tell(
        model, (prompt.unsqueeze(0),), {}, pipeline, say, dump_dir=folder, verify=True
    )
    written, seconds = write(executable, prompt, len(expected))
    if written != expected:
        first = next(i for i, (a, b) in enumerate(zip(written, expected, strict=True)) if a != b)
        raise VerificationError(
            f"pipeline {pipeline.name}: character {first} of the text differs from PyTorch's"
        )
    name = f"pipeline {pipeline.name}"
    return {"run_by": name, "seconds": seconds, "compilation": compilation}


def _indent(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.split("\n"))
