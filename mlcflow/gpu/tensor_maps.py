"""Tensor maps: what the chip knows of an array of which it copies boxes by itself (TMA).

Host code makes one by ``nvgpu.tma.create.descriptor`` and passes it to a launch. A kernel takes the
128 bytes by value, from where the chip reads them: no copy of them may be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from mlcflow.errors import LoweringError
from mlcflow.gpu.memory import SHARED, size_of
from mlcflow.mlir import builtin, gpu, ir, llvm, memref, nvgpu
from mlcflow.schedule.labels import constant

NBYTES, ALIGNMENT = 128, 64
_DATA_TYPES = {
    "i8": 0, "i16": 1, "i32": 3, "i64": 5, "f16": 6, "f32": 7, "f64": 8, "bf16": 9,
}  # fmt: skip
"""``CUtensorMapDataType`` by element type."""
_MOST_DIMS, _LONGEST, _WIDEST = 5, 1 << 32, 256
_SPACES = ("3", SHARED)
"""Memory spaces of the box in the type of a tensor map."""
_MARK = "llvm.dereferenceable"
"""Shows which arguments are tensor maps; ``convert-gpu-to-nvvm`` keeps it, as few others."""


@dataclass(frozen=True)
class TensorMap:
    """The arguments of ``cuTensorMapEncodeTiled`` that are known before the address.

    Dimensions come innermost first, as there. ``strides`` are bytes, of all but the innermost;
    ``dims`` and ``box`` are elements. The rest are numbers of the driver's enumerations.
    """

    data_type: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    interleave: int
    swizzle: int
    promotion: int
    fill: int


def is_tensor_map(kind: ir.Type) -> bool:
    """Whether a type is that of a tensor map."""
    try:
        nvgpu.TensorMapDescriptorType(kind)
    except ValueError:
        return False
    return True


def array_of(op: nvgpu.TmaCreateDescriptorOp) -> ir.Value:
    """The array that a tensor map is of. Raises ``LoweringError`` unless its shape is known."""
    cast = op.tensor.owner
    if not isinstance(cast, ir.Block) and isinstance(cast.opview, memref.CastOp):
        source = cast.opview.source
        if isinstance(source.type, ir.MemRefType) and ir.MemRefType(source.type).has_static_shape:
            return source
    raise _refused("an array of a shape that is known at compile time", op)


def describe(op: nvgpu.TmaCreateDescriptorOp) -> TensorMap:
    """What a tensor map says. Raises ``LoweringError`` for what the driver cannot encode."""
    array = ir.MemRefType(array_of(op).type)
    strides, _ = array.get_strides_and_offset()
    element, size = array.element_type, size_of(ir.MemRefType.get([], array.element_type))
    if str(element) not in _DATA_TYPES:
        raise _refused(f"elements of type {', '.join(_DATA_TYPES)}", op)
    outer = [stride * size for stride in strides[:-1]]
    dynamic = ir.ShapedType.get_dynamic_stride_or_offset()
    if strides[-1] != 1 or dynamic in strides or any(stride % 16 for stride in outer):
        raise _refused("rows without gaps, at multiples of 16 bytes", op)
    box = [constant(extent) for extent in op.boxDimensions]
    sizes = tuple(extent for extent in box if extent is not None)
    if not len(sizes) == len(box) == array.rank:
        raise _refused("a box of known size, with all dimensions of the array", op)
    interleave, swizzle, promotion, fill = _kinds(op, sizes, element)
    if array.rank > _MOST_DIMS or not all(1 <= extent <= _LONGEST for extent in array.shape):
        raise _refused(f"an array of 1 to {_MOST_DIMS} dimensions, each of 1 to {_LONGEST}", op)
    if not all(1 <= extent <= _WIDEST for extent in sizes) or sizes[-1] * size % 16:
        raise _refused(f"a box of 1 to {_WIDEST} elements each way, in rows of 16 bytes", op)
    return TensorMap(
        _DATA_TYPES[str(element)], tuple(array.shape)[::-1], tuple(outer)[::-1], sizes[::-1],
        interleave, swizzle, promotion, fill,
    )  # fmt: skip


def _kinds(
    op: nvgpu.TmaCreateDescriptorOp, box: tuple[int, ...], element: ir.Type
) -> tuple[int, int, int, int]:
    """Interleave, swizzle, L2 promotion and fill of a tensor map.

    Its type does not tell them to Python, so that the type is found which equals it. Its tensor is
    the box, with or without leading dimensions of 1.
    """
    leading = next((n for n, size in enumerate(box) if size != 1), len(box))
    tensors = [
        ir.MemRefType.get(box[first:], element, None, ir.Attribute.parse(space))
        for first in range(leading + 1)
        for space in _SPACES
    ]
    for tensor, interleave, swizzle, promotion, fill in product(
        tensors,
        nvgpu.TensorMapInterleaveKind,
        nvgpu.TensorMapSwizzleKind,
        nvgpu.TensorMapL2PromoKind,
        nvgpu.TensorMapOOBKind,
    ):
        kind = nvgpu.TensorMapDescriptorType.get(tensor, swizzle, promotion, fill, interleave)
        if kind == op.tensorMap.type:
            return interleave.value, swizzle.value, promotion.value, fill.value
    raise _refused("a type whose tensor is the box, in shared memory", op)


def _refused(expected: str, op: nvgpu.TmaCreateDescriptorOp) -> LoweringError:
    return LoweringError(
        f"a tensor map: expected {expected}", op=str(op), location=str(op.location)
    )


def take_tensor_maps(function: gpu.GPUFuncOp) -> None:
    """Let a kernel take the address of each tensor map in the place of the map."""
    inputs = list(ir.FunctionType(function.function_type.value).inputs)
    arguments = list(function.regions[0].blocks[0].arguments)[: len(inputs)]
    maps = [number for number, kind in enumerate(inputs) if is_tensor_map(kind)]
    if not maps:
        return
    pointer = ir.Type.parse("!llvm.ptr")
    known = (
        list(ir.ArrayAttr(function.attributes["arg_attrs"]))
        if "arg_attrs" in function.attributes
        else [ir.DictAttr.get({}) for _ in inputs]
    )
    for number in maps:
        argument = arguments[number]
        with ir.InsertionPoint.at_block_begin(argument.owner), function.location:
            value = builtin.unrealized_conversion_cast([inputs[number]], [argument])
        argument.replace_all_uses_except(value, value.owner.operation)
        argument.set_type(pointer)
        inputs[number] = pointer
        known[number] = ir.DictAttr.get({_MARK: _i64(NBYTES)})
    function.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(inputs, []))
    function.attributes["arg_attrs"] = ir.ArrayAttr.get(known)


def _i64(value: int) -> ir.IntegerAttr:
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


def pass_by_value(kernels: gpu.GPUModuleOp) -> None:
    """Let the functions of a converted module take the bytes of tensor maps, and never copy them.

    ``convert-gpu-to-nvvm`` drops these attributes.
    """
    text = f"{{llvm.byval = !llvm.array<{NBYTES} x i8>, llvm.align = {ALIGNMENT} : i64, "
    attributes = ir.Attribute.parse(text + "nvvm.grid_constant}")
    for function in kernels.regions[0].blocks[0]:
        if isinstance(function, llvm.LLVMFuncOp) and "arg_attrs" in function.attributes:
            known = ir.ArrayAttr(function.attributes["arg_attrs"])
            function.attributes["arg_attrs"] = ir.ArrayAttr.get(
                [attributes if _MARK in ir.DictAttr(each) else each for each in known]
            )
