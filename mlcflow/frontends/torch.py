"""PyTorch models, through ``torch.export`` and torch-mlir's FX importer.

The importer's own route copies every weight into the IR, through Python lists. Here the
parameters, buffers and constants become leading arguments of ``@main`` that name the tensor
they stand for: the text of the module does not grow with the weights, and their bytes stay
where the model has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree
from torch_mlir.extras.fx_importer import FxImporter

from mlcflow import mlir
from mlcflow.announce import IMPORT, entering
from mlcflow.errors import ImportModelError
from mlcflow.frontends import Imported
from mlcflow.frontends.torch_bytes import widen_bytes
from mlcflow.frontends.torch_export import decompose, export
from mlcflow.frontends.torch_identity import identity
from mlcflow.frontends.torch_ops import NodeImporter, unsupported
from mlcflow.mlir import ir
from mlcflow.passes import Pass
from mlcflow.pipeline import step_name
from mlcflow.runtime.dtypes import of_mlir

TO_TORCH_BACKEND = (
    Pass("torch-match-quantized-custom-ops", on="func.func"),
    Pass(
        "torchdynamo-export-to-torch-backend-pipeline",
        backend_legal_ops="aten.adaptive_max_pool2d",
    ),
)
TO_LINALG = (
    *TO_TORCH_BACKEND,
    widen_bytes,
    Pass("torch-backend-to-linalg-on-tensors-backend-pipeline"),
)

_PARAMETER_KINDS = {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}
_MUTATION_KINDS = {
    OutputKind.BUFFER_MUTATION,
    OutputKind.PARAMETER_MUTATION,
    OutputKind.USER_INPUT_MUTATION,
}


def import_torch(
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Imported:
    """Import a ``torch.nn.Module``, an ``ExportedProgram`` or a function of tensors.

    ``args`` and ``kwargs`` are example inputs; shapes are fixed to theirs, except for the
    dimensions that ``dynamic_shapes`` (as in ``torch.export``) leaves open; all open ones must
    be the same one. The module is made when it is first asked for, since a program from the
    cache needs none. Raises ``ImportModelError``, then with every unsupported operation.
    """
    program = export(model, args, kwargs or {}, dynamic_shapes)
    parameters = {name: _contiguous(program, name) for name in _parameter_names(program)}

    def make() -> ir.Module:
        decomposed = decompose(program)
        for name in _parameter_names(decomposed):
            if name not in parameters:
                parameters[name] = _contiguous(decomposed, name)
        results = strip_constants(decomposed.graph, decomposed.graph_signature)
        module = import_graph(decomposed)
        _lower(module)
        _annotate(module, decomposed, results)
        return module

    constants = _constants(program)
    return Imported(
        make,
        parameters,
        flatten=_flattener(program.call_spec.in_spec, constants),
        unflatten=_unflattener(program.call_spec.out_spec, program.graph_signature),
        positional=_is_positional(program.call_spec.in_spec) and not constants,
        tensors=True,
        tell=lambda: identity(program),
    )


def _parameter_names(program: torch.export.ExportedProgram) -> list[str]:
    """The parameters, buffers and constants of a program."""
    specs = program.graph_signature.input_specs
    return [spec.target for spec in specs if spec.kind in _PARAMETER_KINDS]


def _constants(program: torch.export.ExportedProgram) -> dict[int, Any]:
    """The user inputs that are no tensors, by position. Raises ``ImportModelError``."""
    specs = program.graph_signature.input_specs
    inputs = [spec.arg for spec in specs if spec.kind == InputKind.USER_INPUT]
    for arg in inputs:
        if not isinstance(arg, ConstantArgument | TensorArgument):
            raise ImportModelError(
                f"input '{arg.name}': expected a tensor or a constant, found "
                f"{type(arg).__name__}; pass the number as a 0-d tensor"
            )
    found = enumerate(inputs)
    return {number: arg.value for number, arg in found if isinstance(arg, ConstantArgument)}


def strip_constants(graph: torch.fx.Graph, signature: Any) -> list:
    """Remove what is no tensor from the inputs and outputs of the graph.

    Returns the specs of the outputs that remain.
    """
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for spec in signature.input_specs:
        if isinstance(spec.arg, ConstantArgument) and spec.arg.name in placeholders:
            graph.erase_node(placeholders[spec.arg.name])
    output = next(node for node in graph.nodes if node.op == "output")
    kept, results = [], []
    for node, spec in zip(output.args[0], signature.output_specs, strict=True):
        if not isinstance(spec.arg, ConstantArgument):
            kept.append(node)
            results.append(spec)
    output.args = (tuple(kept),)
    return results


def import_graph(program: torch.export.ExportedProgram) -> ir.Module:
    """A decomposed program in the torch dialect. Raises ``ImportModelError``."""
    entering(IMPORT, "FxImporter", None)
    importer = FxImporter(context=mlir.context(), graph_node_importer_cls=NodeImporter)
    try:
        importer.import_graph_module(program.graph_module)
    except Exception as error:
        raise ImportModelError(
            f"torch-mlir's importer failed: {type(error).__name__}: {error}"
        ) from error
    return importer.module


def _lower(module: ir.Module) -> None:
    """From the torch dialect to linalg on tensors, or a list of all that stands in the way."""
    imported = mlir.clone(module)
    try:
        for step in TO_LINALG:
            entering(IMPORT, step_name(step), module)
            step(module)
    except ir.MLIRError as error:
        found = unsupported(imported, TO_LINALG)
        lines = [str(each) for each in found] or [d.message for d in error.error_diagnostics]
        raise ImportModelError(
            f"torch-mlir cannot lower {len(lines)} operation(s) of this model to linalg:\n  "
            + "\n  ".join(lines)
            + "\n  rewrite them in PyTorch, or register a decomposition for them"
        ) from error


def _annotate(module: ir.Module, program: torch.export.ExportedProgram, results: list) -> None:
    """Name the arguments and results of ``@main``."""
    with module.context:
        main = next(op for op in module.body.operations if _symbol(op) == "main")
        values = {
            node.name: node.meta.get("val")
            for node in program.graph.nodes
            if node.op == "placeholder"
        }
        specs = program.graph_signature.input_specs
        parameters = {spec.target for spec in specs if spec.kind in _PARAMETER_KINDS}
        arguments = []
        for spec in specs:
            if isinstance(spec.arg, ConstantArgument):
                continue
            role = "parameter" if spec.kind in _PARAMETER_KINDS else "input"
            name = spec.target if role == "parameter" else _input_name(spec.arg.name, parameters)
            attributes = {f"mlcflow.{role}": ir.StringAttr.get(name)}
            arguments.append(attributes | _tensor_attributes(values.get(spec.arg.name)))
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
        outputs = []
        for number, spec in enumerate(results):
            mutates = spec.kind in _MUTATION_KINDS
            target = spec.target
            if spec.kind == OutputKind.USER_INPUT_MUTATION:
                target = _input_name(target, parameters)
            attributes = {
                "mlcflow.mutates" if mutates else "mlcflow.output": ir.StringAttr.get(
                    target if mutates else str(number)
                )
            }
            value = nodes.get(spec.arg.name)
            _check_type(number, main.type.results[number], value)
            outputs.append(attributes | _tensor_attributes(value))
        main.attributes["arg_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(a) for a in arguments])
        main.attributes["res_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(a) for a in outputs])


def _check_type(number: int, kind: ir.Type, value: Any) -> None:
    """Refuse a result that torch-mlir gives another element type than PyTorch."""
    if isinstance(value, torch.Tensor):
        element = str(ir.ShapedType(kind).element_type)
        try:
            found = of_mlir(element)
        except KeyError as error:
            raise ImportModelError(f"result {number}: no array has elements {element}") from error
        expected = str(value.dtype).removeprefix("torch.")
        if found != {"uint8": "int8"}.get(expected, expected):
            raise ImportModelError(
                f"result {number}: torch-mlir makes it {found}, and PyTorch {expected}"
            )


def _input_name(name: str, parameters: set[str]) -> str:
    """The name of an input; another one than that of every parameter."""
    return f"{name}_input" if name in parameters else name


def _tensor_attributes(value: Any) -> dict[str, ir.Attribute]:
    """What the MLIR type does not tell of a tensor: unsigned elements, named dimensions."""
    attributes: dict[str, ir.Attribute] = {}
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.uint8:
            attributes["mlcflow.dtype"] = ir.StringAttr.get("uint8")
        if any(isinstance(size, torch.SymInt) for size in value.shape):
            names = [ir.StringAttr.get(str(size)) for size in value.shape]
            attributes["mlcflow.dims"] = ir.ArrayAttr.get(names)
    return attributes


def _symbol(op: ir.OpView) -> str:
    return ir.StringAttr(op.operation.attributes["sym_name"]).value


def _contiguous(program: torch.export.ExportedProgram, name: str) -> torch.Tensor:
    """The tensor behind a parameter, buffer or constant; copied only if it has gaps."""
    tensor = program.state_dict.get(name)
    if tensor is None:
        tensor = program.constants[name]
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _is_positional(in_spec: pytree.TreeSpec) -> bool:
    """Whether the call takes tensors by position and nothing else."""
    args, kwargs = in_spec.children()
    return not kwargs.children() and all(child.is_leaf() for child in args.children())


def _flattener(
    in_spec: pytree.TreeSpec, constants: dict[int, Any]
) -> Callable[[tuple, dict[str, Any]], list]:
    names = in_spec.children()[1].context or []

    def flatten(args: tuple, kwargs: dict[str, Any]) -> list:
        if set(kwargs) != set(names):
            raise TypeError(f"keyword arguments: expected {list(names)}, got {list(kwargs)}")
        ordered = {name: kwargs[name] for name in names}
        leaves, spec = pytree.tree_flatten((args, ordered))
        if spec != in_spec:
            raise TypeError(f"structure of the arguments: expected {in_spec}, got {spec}")
        for position, value in constants.items():
            if leaves[position] != value:
                raise TypeError(
                    f"input {position} was the constant {value!r} when the model was compiled,"
                    f" got {leaves[position]!r}; compile again for another value"
                )
        return [leaf for position, leaf in enumerate(leaves) if position not in constants]

    return flatten


def _unflattener(out_spec: pytree.TreeSpec, signature: Any) -> Callable[[list], Any]:
    outputs = [s.arg for s in signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
    fixed: dict[int, Any] = {
        i: arg.value for i, arg in enumerate(outputs) if isinstance(arg, ConstantArgument)
    }
    numbers = [not isinstance(arg, TensorArgument | ConstantArgument) for arg in outputs]

    def unflatten(results: list) -> Any:
        rest = iter(results)
        leaves: list[Any] = [fixed[i] if i in fixed else next(rest) for i in range(len(outputs))]
        leaves = [x.item() if number else x for x, number in zip(leaves, numbers, strict=True)]
        return pytree.tree_unflatten(leaves, out_spec)

    if out_spec.is_leaf() and not fixed and not any(numbers):
        return lambda results: results[0]
    return unflatten
