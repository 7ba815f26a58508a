"""The operations that random models are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

from random_programs import SIZES, Draft, Ref

Maker = Callable[[Draft], bool]

UNARY = (
    "relu", "tanh", "sigmoid", "exp", "abs", "neg", "square", "sin", "cos", "erf", "floor", "ceil",
    "round", "sign", "rsqrt", "sqrt", "log", "log1p", "expm1", "reciprocal", "trunc", "logical_not",
    "isnan",
)  # fmt: skip
ACTIVATIONS = ("gelu", "silu", "softplus", "leaky_relu", "elu", "hardtanh", "hardswish", "relu6")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "atan2", "fmax", "remainder")
COMPARE = ("gt", "lt", "ge", "eq", "ne")


def unary(d: Draft) -> bool:
    x = d.pick()
    return x is not None and d.add(f"torch.{d.one(UNARY)}", x)


def activation(d: Draft) -> bool:
    x, function = d.pick(), d.one(ACTIVATIONS)
    if x is None:
        return False
    if function == "gelu":  # of infinity, PyTorch has two answers: one for whole vectors
        if not d.add("torch.clamp", x, -1e4, 1e4):
            return False
        x = Ref(len(d.values) - 1)
    return d.add(f"F.{function}", x)


def binary(d: Draft) -> bool:
    x, y = d.pick(), d.pick()
    return x is not None and y is not None and d.add(f"torch.{d.one(BINARY)}", x, y)


def with_number(d: Draft) -> bool:
    x = d.pick(floating=d.one([True, True, True, False]))
    number = d.one([0.5, 2, -1, 3, 0.1, -2.5])
    return x is not None and d.add(f"torch.{d.one(['add', 'sub', 'mul', 'div'])}", x, number)


def integers(d: Draft) -> bool:
    x, y = d.pick(floating=False), d.pick(floating=False)
    name = d.one(["add", "sub", "mul", "maximum", "minimum", "bitwise_and", "bitwise_xor"])
    return x is not None and y is not None and d.add(f"torch.{name}", x, y)


def select(d: Draft) -> bool:
    x, y = d.pick(), d.pick()
    if x is None or y is None or not d.add(f"torch.{d.one(COMPARE)}", x, y):
        return False
    return d.add("torch.where", Ref(len(d.values) - 1), x, d.one([y, 0.0]))


def clamp(d: Draft) -> bool:
    x = d.pick()
    bounds = d.one([(-1.0, 1.0), (None, 0.5), (0.0, None)])
    return x is not None and d.add("torch.clamp", x, *bounds)


def reduction(d: Draft) -> bool:
    x = d.pick()
    if x is None or not d.shape(x):
        return False
    rank = len(d.shape(x))
    axes = sorted({d.choose(rank) for _ in range(1 + d.choose(2))})
    name = d.one(["sum", "mean", "amax", "amin", "logsumexp", "var", "std"])
    return d.add(f"torch.{name}", x, axes, keepdim=d.one([True, False]))


def of_one_axis(d: Draft) -> bool:
    x = d.pick()
    if x is None or not d.shape(x):
        return False
    names = ("softmax", "log_softmax", "cumsum", "argmax", "argmin", "prod", "sum")
    name = f"torch.{d.one(names)}"
    return d.add(name, x, d.choose(len(d.shape(x))))


def norm(d: Draft) -> bool:
    x = d.pick(dims=range(1, 5))
    if x is None:
        return False
    last = d.one([1, 2]) if len(d.shape(x)) > 1 else 1
    return d.add("F.layer_norm", x, list(d.shape(x)[-last:]))


def product(d: Draft) -> bool:
    x, y = d.pick(dims=range(1, 5)), d.pick(dims=range(1, 5))
    return x is not None and y is not None and d.add("torch.matmul", x, y)


def product_transposed(d: Draft) -> bool:
    x, y = d.pick(dims=range(2, 5)), d.pick(dims=range(2, 5))
    if x is None or y is None or not d.add("torch.transpose", y, -1, -2):
        return False
    return d.add("torch.matmul", x, Ref(len(d.values) - 1))


def attention(d: Draft) -> bool:
    x = d.pick(dims=range(3, 5))
    return x is not None and d.add("F.scaled_dot_product_attention", x, x, x)


def convolution(d: Draft) -> bool:
    """The kernel is a part of another value."""
    x = d.pick(dims=range(4, 5))
    if x is None or d.shape(x)[1] > 16:
        return False
    k = d.one([1, 2, 3])
    if min(d.shape(x)[2:]) < k or not d.add("torch.narrow", x, 2, 0, k):
        return False
    if not d.add("torch.narrow", Ref(len(d.values) - 1), 3, 0, k):
        return False
    kernel = Ref(len(d.values) - 1)
    return d.add("F.conv2d", x, kernel, stride=d.one([1, 1, 2]), padding=d.one([0, 1, 2]),
                 dilation=d.one([1, 1, 2]))  # fmt: skip


def pool(d: Draft) -> bool:
    x = d.pick(dims=range(4, 5))
    name = d.one(["max_pool2d", "avg_pool2d"])
    return x is not None and d.add(f"F.{name}", x, d.one([2, 3]), stride=d.one([1, 2]),
                                   padding=d.one([0, 1]))  # fmt: skip


def permute(d: Draft) -> bool:
    x = d.pick(floating=None)
    if x is None:
        return False
    rest = list(range(len(d.shape(x))))
    order = [rest.pop(d.choose(len(rest))) for _ in range(len(rest))]
    return d.add("torch.permute", x, order)


def reshape(d: Draft) -> bool:
    x = d.pick(floating=None)
    if x is None:
        return False
    size = math.prod(d.shape(x))
    factors = [n for n in range(1, size + 1) if size % n == 0]
    first = d.one(factors)
    return d.add("torch.reshape", x, d.one([[first, size // first], [-1], [1, first, -1]]))


def concatenate(d: Draft) -> bool:
    x, y = d.pick(), d.pick()
    if x is None or y is None or not d.shape(x):
        return False
    return d.add("torch.cat", [x, d.one([x, y])], d.choose(len(d.shape(x))))


def part(d: Draft) -> bool:
    x = d.pick(floating=None)
    if x is None or not d.shape(x):
        return False
    axis = d.choose(len(d.shape(x)))
    size = d.shape(x)[axis]
    begin = d.choose(size)
    if d.choose(2):
        return d.add("torch.narrow", x, axis, begin, 1 + d.choose(size - begin))
    return d.add("torch.select", x, axis, begin)


def pad(d: Draft) -> bool:
    x = d.pick()
    if x is None or not d.shape(x):
        return False
    widths = [d.one([0, 1, 2, 3]) for _ in range(2 * d.one(range(1, min(3, len(d.shape(x))) + 1)))]
    return d.add("F.pad", x, widths, value=d.one([0.0, 1.0, -2.0]))


def gather(d: Draft) -> bool:
    x, indices = d.pick(dims=range(1, 5)), d.pick(floating=False, dims=range(1, 2))
    if x is None or indices is None:
        return False
    return d.add("torch.index_select", x, d.choose(len(d.shape(x))), indices)


def movement(d: Draft) -> bool:
    x = d.pick(floating=None)
    if x is None or not d.shape(x):
        return False
    axis = d.choose(len(d.shape(x)))
    name = d.one(["flip", "roll", "unsqueeze", "squeeze", "tril", "triu", "repeat_interleave"])
    if name in ("tril", "triu"):
        return d.add(f"torch.{name}", x)
    if name == "flip":
        return d.add("torch.flip", x, [axis])
    if name == "roll":
        return d.add("torch.roll", x, d.one([1, -2]), axis)
    if name == "repeat_interleave":
        return d.add("torch.repeat_interleave", x, d.one([2, 3]), axis)
    return d.add(f"torch.{name}", x, axis)


def spread(d: Draft) -> bool:
    x = d.pick()
    if x is None:
        return False
    return d.add("torch.broadcast_to", x, [d.one(SIZES[:5]), *d.shape(x)])


MAKERS: dict[str, Maker] = {
    make.__name__ + "_" * again: make
    for make, times in (
        (unary, 3), (activation, 2), (binary, 4), (with_number, 2), (integers, 1), (select, 1),
        (clamp, 1), (reduction, 3), (of_one_axis, 2), (norm, 1), (product, 3),
        (product_transposed, 2), (attention, 1), (convolution, 2), (pool, 1), (permute, 1),
        (reshape, 2), (concatenate, 2), (part, 2), (pad, 1), (gather, 2), (movement, 2),
        (spread, 1),
    )
    for again in range(times)
}  # fmt: skip
"""Each maker by name, as often as it is to be drawn."""
