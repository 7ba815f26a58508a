"""What stands in the way of a model, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Blocker:
    """Something that a stage refuses: an operation, or the model itself if that is empty.

    ``count`` equal ones with operands of ``types`` (shapes and dtypes), at the lines ``where``
    of the user's source.
    """

    stage: str
    operation: str
    count: int
    types: tuple[str, ...]
    where: str
    reason: str
    remedy: str


_BY_OPERATION = (
    (("fft", "_fft", "stft"), "multiply by the matrix of the transform, or do it outside"),
    (("linalg_", "qr", "svd", "cholesky", "inverse"),
     "factor the matrix outside the model and pass the factors as inputs or buffers"),
    (("nonzero", "masked_select", "unique", "index.Tensor_hacked"),
     "keep the size: torch.where with a mask instead of a selection"),
    (("median", "mode", "kthvalue", "cummax", "cummin"), "use torch.sort or torch.topk"),
    (("embedding_bag",), "use torch.nn.functional.embedding, then sum or mean"),
    (("multinomial", "bernoulli", "rand", "normal"), "draw outside the model, pass it as an input"),
    (("histc", "bincount"), "sum torch.nn.functional.one_hot"),
    (("searchsorted", "bucketize"), "(values[..., None] > boundaries).sum(-1)"),
    (("cdist",), "x.square().sum(-1)[:, None] - 2 * x @ y.T + y.square().sum(-1)"),
    (("fmod",), "x - torch.trunc(x / y) * y"),
    (("flex_attention",), "use torch.nn.functional.scaled_dot_product_attention with a mask"),
    (("scan", "map", "while_loop"), "unroll the loop in Python, if its length is fixed"),
    (("lgamma", "digamma", "erfinv", "igamma", "bessel", "special", "polygamma"),
     "compute it outside the model, or as a polynomial of operations that are lowered"),
)  # fmt: skip

_BY_STAGE = {
    "export": "Python must not depend on values of tensors: torch.where or torch.cond instead of "
    "`if`, a constant instead of .item()",
    "decompose": "see what PyTorch says; torch.export.export(model, args) shows it alone",
    "parse": "correct the file; mlcflow opt FILE reads it alone",
    "import": "rewrite it with operations of torch.ops.aten",
    "linalg": "rewrite it in PyTorch with other operations, or decompose it: "
    "torch.export.export(model, args).run_decompositions({op: function})",
    "machine code": "link the function: docs/libraries.md",
}
_OTHERWISE = "try --pipeline=reference, which lowers what cpu does not; report it if that does"


def remedy(stage: str, operation: str) -> str:
    """What to do about an operation that a stage refuses."""
    words = operation.replace("::", ".").split(".")
    for names, advice in _BY_OPERATION:
        if any(word.startswith(name) for word in words for name in names):
            return advice
    return _BY_STAGE.get(stage, _OTHERWISE)
