"""Upstream passes as data."""

from __future__ import annotations

from dataclasses import dataclass

from mlcflow.mlir import ir, passmanager

Option = bool | int | str | tuple[str, ...]


@dataclass(frozen=True, init=False)
class Pass:
    """An upstream MLIR pass with its options; MLIR's pass text is derived from it.

    ``Pass("canonicalize")`` runs on the module. ``on="func.func"`` anchors it on every
    function. Options are keyword arguments with underscores for hyphens; ``True`` and
    ``False`` become ``1`` and ``0``, a tuple becomes a comma-separated list.

    >>> print(Pass("convert-vector-to-scf", on="func.func", full_unroll=True))
    func.func(convert-vector-to-scf{full-unroll=1})
    """

    name: str
    on: str
    options: tuple[tuple[str, Option], ...]

    def __init__(self, name: str, *, on: str = "builtin.module", **options: Option) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "on", on)
        object.__setattr__(self, "options", tuple(options.items()))

    def __str__(self) -> str:
        options = " ".join(f"{key.replace('_', '-')}={_text(v)}" for key, v in self.options)
        text = f"{self.name}{{{options}}}" if options else self.name
        return text if self.on == "builtin.module" else f"{self.on}({text})"

    def manager(self) -> passmanager.PassManager:
        """A pass manager that holds this pass; needs a current context.

        Raises ``ValueError`` when MLIR does not know the pass or one of its options.
        """
        return passmanager.PassManager.parse(f"builtin.module({self})")

    def __call__(self, module: ir.Module) -> None:
        """Run the pass on ``module``, in place. Raises ``ir.MLIRError`` when it fails."""
        with module.context:
            self.manager().run(module.operation)


def _text(value: Option) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
