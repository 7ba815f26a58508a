"""Random models: calls of PyTorch functions on earlier values, drawn by any source of choices."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

Choose = Callable[[int], int]
"""``choose(n)`` gives a number below ``n``: a random generator's, or one that Hypothesis draws."""

LARGEST = 1e4
"""A value with a larger element is not kept, so that nothing overflows by the way."""
ELEMENTS = 50_000
MODULES = {"torch": torch, "F": F}


@dataclass(frozen=True)
class Ref:
    """The value of that number."""

    number: int

    def __repr__(self) -> str:
        return f"v{self.number}"


@dataclass(frozen=True)
class Step:
    """``function(*arguments)``; the function is named as in ``torch.relu`` or ``F.pad``."""

    function: str
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = [*map(repr, self.arguments), *(f"{k}={v!r}" for k, v in self.keywords)]
        return f"{self.function}({', '.join(words)})"

    def run(self, values: list[torch.Tensor]) -> torch.Tensor:
        module, _, name = self.function.partition(".")
        words = {key: _filled(value, values) for key, value in self.keywords}
        arguments = [_filled(value, values) for value in self.arguments]
        return getattr(MODULES[module], name)(*arguments, **words)


def _filled(value: Any, values: list[torch.Tensor]) -> Any:
    if isinstance(value, Ref):
        return values[value.number]
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    return value


@dataclass(frozen=True)
class Input:
    """Made of a seed: normal numbers, or whole ones below ``below``.

    ``special``: values that stand in the place of the first elements. ``fixed``: a parameter of
    the model.
    """

    shape: tuple[int, ...]
    dtype: str
    seed: int
    below: int = 8
    special: tuple[str, ...] = ()
    fixed: bool = False

    def make(self) -> torch.Tensor:
        return _made(self.shape, self.dtype, self.seed, self.below, self.special)

    def __str__(self) -> str:
        words = (self.shape, self.dtype, self.seed, self.below, self.special)
        return f"made({', '.join(map(repr, words))})"


def _made(shape, dtype, seed, below, special):
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.randint(0, below, shape, generator=generator).to(kind)
    value = torch.randn(shape, generator=generator)
    value.view(-1)[: len(special)] = torch.tensor([float(x) for x in special])[: value.numel()]
    return value.to(kind)


@dataclass(frozen=True)
class Program:
    """A function of the inputs: the steps in order; it returns the values ``outputs``."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What it is called with."""
        return tuple(each.make() for each in self.inputs if not each.fixed)

    def model(self) -> torch.nn.Module:
        """The program with what is fixed among its inputs as buffers."""
        return _Model(self)

    def run(self, values: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The outputs for all inputs, fixed ones included."""
        for step in self.steps:
            values.append(step.run(values))
        return tuple(values[number] for number in self.outputs)

    def __str__(self) -> str:
        """A file that ``mlcflow run`` takes."""
        numbered = [(f"v{number}", each) for number, each in enumerate(self.inputs)]
        lines = ["import torch", "from torch.nn import functional as F", "", ""]
        lines += [inspect.getsource(_made).replace("def _made", "def made"), ""]
        lines += [f"{name} = {each}" for name, each in numbered if each.fixed]
        given = [(name, each) for name, each in numbered if not each.fixed]
        lines += ["", "", f"def model({', '.join(name for name, _ in given)}):"]
        for number, step in enumerate(self.steps, len(self.inputs)):
            lines.append(f"    v{number} = {step}")
        lines += [f"    return ({' '.join(f'v{n},' for n in self.outputs)})", "", ""]
        lines += ["inputs = (", *(f"    {each}," for _, each in given), ")"]
        return "\n".join(lines)

    def without(self, number: int) -> Program | None:
        """The program without a step, whose value its first argument replaces; ``None``: cannot."""
        place = number - len(self.inputs)
        refs = _refs(self.steps[place])
        if not refs:
            return None

        def moved(value: Any) -> Any:
            if isinstance(value, list):
                return [moved(each) for each in value]
            if not isinstance(value, Ref):
                return value
            at = refs[0].number if value.number == number else value.number
            return Ref(at - (at > number))

        def without(step: Step) -> Step:
            words = tuple((key, moved(value)) for key, value in step.keywords)
            return Step(step.function, tuple(map(moved, step.arguments)), words)

        rest = (*self.steps[:place], *self.steps[place + 1 :])
        steps = tuple(map(without, rest))
        outputs = tuple(dict.fromkeys(moved(Ref(each)).number for each in self.outputs))
        return Program(self.inputs, steps, outputs)

    def smaller(self) -> Iterator[Program]:
        """Programs with less in them that may fail the same way."""
        if len(self.outputs) > 1:
            for output in self.outputs:
                yield Program(self.inputs, self.steps, (output,))
        for number in reversed(range(len(self.inputs), len(self.inputs) + len(self.steps))):
            found = self.without(number)
            if found is not None:
                yield found


class _Model(torch.nn.Module):
    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        for number, each in enumerate(program.inputs):
            if each.fixed:
                self.register_buffer(f"v{number}", each.make())

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest = iter(inputs)
        numbered = enumerate(self.program.inputs)
        values = [getattr(self, f"v{n}") if each.fixed else next(rest) for n, each in numbered]
        return self.program.run(values)


def _refs(step: Step) -> list[Ref]:
    found: list[Ref] = []
    for value in (*step.arguments, *(v for _, v in step.keywords)):
        found += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Ref)]
    return found


@dataclass
class Draft:
    """A program that is being drawn, with the values that its steps have on its inputs."""

    choose: Choose
    inputs: list[Input] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    linear: tuple[Any, ...] = ()
    """The step that the inputs were made for, if any."""

    def one(self, options: Any) -> Any:
        options = list(options)
        return options[self.choose(len(options))]

    def input(self, shape: tuple[int, ...], dtype: str = "float32", *, fixed: bool = False) -> Ref:
        """A new input; only before the first step, since values are numbered in order."""
        special = SPECIAL if not fixed and self.choose(8) == 0 else ()
        self.inputs.append(Input(shape, dtype, self.choose(1000), 8, special, fixed))
        self.values.append(self.inputs[-1].make())
        return Ref(len(self.values) - 1)

    def pick(self, *, floating: bool | None = True, dims: range = range(9)) -> Ref | None:
        """A value, later ones more often; ``None`` if there is none of that kind."""
        fits = [
            number
            for number, value in enumerate(self.values)
            if value.dim() in dims
            and (floating is None or value.dtype.is_floating_point == floating)
            and value.dtype != torch.bool
        ]
        if not fits:
            return None
        return Ref(self.one(fits + fits[-3:] * 2))

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return tuple(self.values[ref.number].shape)

    def add(self, function: str, *arguments: Any, **keywords: Any) -> bool:
        """Append a step if its value can be had and is of use."""
        step = Step(function, arguments, tuple(keywords.items()))
        try:
            value = step.run(self.values)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return False
        usable = isinstance(value, torch.Tensor) and 0 < value.numel() <= ELEMENTS
        if not usable or not _moderate(value):
            return False
        self.values.append(value)
        self.steps.append(step)
        return True


def _moderate(value: torch.Tensor) -> bool:
    if value.dtype == torch.bool:
        return True
    finite = value.double()[torch.isfinite(value.double())]
    return finite.numel() > value.numel() // 2 and bool(finite.abs().max() <= LARGEST)


SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 33, 48, 64, 65, 96, 130)
SPECIAL = ("nan", "inf", "-inf", "0.0", "-0.0", "1e-40", "500.0")


def _any_shapes(draft: Draft, dtype: str) -> None:
    """One to three inputs that broadcast."""
    shape = tuple(draft.one(SIZES) for _ in range(1 + draft.choose(4)))
    while math.prod(shape) > ELEMENTS // 4:
        shape = tuple(max(1, size // 2) for size in shape)
    draft.input(shape, dtype)
    for _ in range(draft.choose(3)):
        other = tuple(draft.one([size, size, 1, draft.one(SIZES)]) for size in shape)
        if math.prod(other) <= ELEMENTS:
            draft.input(other, dtype, fixed=draft.choose(2) == 0)


def _linear(draft: Draft, dtype: str) -> None:
    """A row or a matrix, and the weights that it is multiplied by."""
    inner, outer = draft.one(SIZES), draft.one(SIZES)
    lead = [[draft.one(SIZES)], [2, draft.one(SIZES[:8])], [1], []][draft.choose(4)]
    x = draft.input((*lead, inner), dtype)
    weight = draft.input((outer, inner), dtype, fixed=draft.choose(4) > 0)
    bias = draft.input((outer,), dtype, fixed=draft.choose(4) > 0)
    draft.linear = ("F.linear", x, weight, draft.one([bias, None]))


def _image(draft: Draft, dtype: str) -> None:
    """An image, and the weights of a convolution."""
    groups = draft.one([1, 1, 2, 4])
    inner, outer = (groups * draft.one([1, 2, 3, 4, 8, 16]) for _ in range(2))
    k = draft.one([1, 2, 3, 3, 5])
    x = draft.input((draft.one([1, 1, 2]), inner, *(draft.one(range(6, 18)) for _ in "hw")), dtype)
    weight = draft.input((outer, inner // groups, k, k), dtype, fixed=draft.choose(4) > 0)
    bias = draft.input((outer,), dtype, fixed=draft.choose(4) > 0)
    stride, padding, dilation = (draft.one(n) for n in ([1, 1, 2, 3], [0, 1, 2], [1, 1, 2]))
    options = (stride, padding, dilation, groups)
    draft.linear = ("F.conv2d", x, weight, draft.one([bias, None]), *options)


def draw(choose: Choose, makers: dict[str, Callable[[Draft], bool]], most: int = 7) -> Program:
    """A program of up to ``most`` steps, each made by one of ``makers``."""
    draft = Draft(choose)
    dtype = draft.one(["float32"] * 8 + ["float64", "float16", "bfloat16"])
    [_any_shapes, _any_shapes, _linear, _image][choose(4)](draft, dtype)
    if choose(4) == 0:
        draft.input((draft.one(SIZES),), draft.one(["int64", "int32"]))
    wanted = 1 + choose(most)
    if draft.linear:
        draft.add(*draft.linear)
    for _ in range(4 * wanted):
        if len(draft.steps) == wanted:
            break
        makers[draft.one(makers)](draft)
    if not draft.steps:
        draft.add("torch.relu", Ref(0))
    used = {ref.number for step in draft.steps for ref in _refs(step)}
    first = len(draft.inputs)
    leaves = [n for n in range(first, len(draft.values)) if n not in used]
    return Program(tuple(draft.inputs), tuple(draft.steps), tuple(leaves))
