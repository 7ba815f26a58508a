"""What LLVM is told about functions: which instructions it may use, what it leaves apart."""

from __future__ import annotations

from collections.abc import Callable

from mlcflow.graph.interface import ENTRY_POINTS
from mlcflow.mlir import ir, llvm
from mlcflow.target import Target


def restrict_to(target: Target) -> Callable[[ir.Module], None]:
    """A step that limits the functions of an LLVM module to the features of ``target``.

    Nothing is stated for the machine that compiles: LLVM then uses all it finds. Attributes
    of ``func.func`` would be dropped on the way, so this runs on the LLVM dialect.
    """

    def restrict_to_target(module: ir.Module) -> None:
        if target.native or not target.features:
            return
        family = target.triple.split("-")[0]
        features = ", ".join(f'"+{name}"' for name in target.features)
        allowed = ir.Attribute.parse(f"#llvm.target_features<[{features}]>")
        for op in module.body.operations:
            if isinstance(op, llvm.LLVMFuncOp) and op.body.blocks:
                op.attributes["target_cpu"] = ir.StringAttr.get(family.replace("_", "-"))
                op.attributes["target_features"] = allowed

    return restrict_to_target


def keep_kernels_apart(module: ir.Module) -> None:
    """Forbid LLVM to inline kernels.

    A kernel is called once for each place where the model repeats it: twelve equal layers
    would be compiled twelve times.
    """
    for op in module.body.operations:
        if isinstance(op, llvm.LLVMFuncOp) and "mlcflow.kernel" in op.attributes:
            op.attributes["no_inline"] = ir.UnitAttr.get()


def hide_entry_points(module: ir.Module) -> None:
    """Make ``@main`` and ``@prepare`` private to the module; they are called by packed entries.

    Their arguments are all parameters: for a model of a hundred layers thousands of scalars, most
    of them known sizes that nothing reads. LLVM drops those of a private function; to generate
    code for all of them takes longer than for all kernels together.
    """
    functions = [op for op in module.body.operations if isinstance(op, llvm.LLVMFuncOp)]
    named = {ir.StringAttr(op.attributes["sym_name"]).value: op for op in functions}
    for name in ENTRY_POINTS:
        if {name, f"_mlir_ciface_{name}"} <= set(named):
            named[name].attributes["linkage"] = ir.Attribute.parse("#llvm.linkage<internal>")
            named[name].attributes["no_inline"] = ir.UnitAttr.get()
