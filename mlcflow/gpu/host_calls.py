"""Host code: launches and reads as calls of functions that call the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from mlcflow.errors import LoweringError
from mlcflow.gpu import tensor_maps
from mlcflow.gpu.lower import is_plain
from mlcflow.gpu.ptx import kernel_of
from mlcflow.gpu.tensor_maps import array_of, describe, is_tensor_map
from mlcflow.mlir import arith, func, gpu, ir, llvm, memref, nvgpu, parse, walk
from mlcflow.schedule.labels import constant

KERNELS = "mlcflow.gpu_kernels"
"""The attribute of a module that lists its kernels, in the order of their numbers."""
SHARED = "mlcflow.gpu_shared"
"""Bytes of shared memory that each of them gets by its launch."""

LAUNCH, READ = "mlcflow_gpu_launch", "mlcflow_gpu_read"
BIND = "mlcflow_gpu_bind"
ENCODE = "mlcflow_gpu_encode"
"""The function that makes a tensor map; a module that makes none is without it."""
_ARGUMENTS = {LAUNCH: 9, READ: 3, ENCODE: 12}
_BITS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16}


def call_driver(module: ir.Module) -> None:
    """Replace launches by calls of ``@mlcflow_gpu_launch``, the making of tensor maps by calls of
    ``@mlcflow_gpu_encode``, and reads of single elements, which lie on the device, by calls of
    ``@mlcflow_gpu_read``.
    """
    operations = walk(module.operation)
    described = [op for op in operations if isinstance(op, nvgpu.TmaCreateDescriptorOp)]
    launches = [op for op in operations if isinstance(op, gpu.LaunchFuncOp)]
    loads = [op for op in operations if isinstance(op, memref.LoadOp)]
    names = list(dict.fromkeys(kernel_of(op) for op in launches))
    module.operation.attributes[KERNELS] = ir.ArrayAttr.get([ir.StringAttr.get(n) for n in names])
    shared = [max(_shared(op) for op in launches if kernel_of(op) == name) for name in names]
    module.operation.attributes[SHARED] = ir.DenseI64ArrayAttr.get(shared)
    _declare(module, (LAUNCH, READ, ENCODE) if described else (LAUNCH, READ))
    for load in loads:
        _read(load)
    maps = {op.tensorMap: _encode(op) for op in described}
    for launch in launches:
        _launch(launch, names.index(kernel_of(launch)), maps)
    for op in described:
        cast = op.tensor.owner
        op.operation.erase()
        if not list(cast.results[0].uses):
            cast.erase()
    if "gpu.container_module" in module.operation.attributes:
        del module.operation.attributes["gpu.container_module"]


def has_kernels(module: ir.Module) -> bool:
    """Whether a module is host code with kernels for a device."""
    return KERNELS in module.operation.attributes


def shared_of(module: ir.Module) -> dict[str, int]:
    """The kernels of a module, by their numbers, and the shared memory that launches bring."""
    attributes = module.operation.attributes
    if KERNELS not in attributes:
        return {}
    names = [ir.StringAttr(name).value for name in ir.ArrayAttr(attributes[KERNELS])]
    return dict(zip(names, ir.DenseI64ArrayAttr(attributes[SHARED]), strict=True))


def has_tensor_maps(module: ir.Module) -> bool:
    """Whether host code makes tensor maps."""
    return ENCODE in ir.SymbolTable(module.operation)


def _declare(module: ir.Module, names: Sequence[str]) -> None:
    index = ir.IndexType.get()
    with ir.InsertionPoint.at_block_begin(module.body):
        for name in names:
            func.FuncOp(name, ([index] * _ARGUMENTS[name], []), visibility="private")


def link_driver(module: ir.Module) -> None:
    """Put the functions that call the driver in the place of their declarations."""
    left_out = () if has_tensor_maps(module) else (ENCODE,)
    for op in list(module.body.operations):
        if isinstance(op, llvm.LLVMFuncOp) and not op.body.blocks and op.sym_name.value in OURS:
            op.operation.erase()
    text = resources.files("mlcflow.gpu").joinpath("host.mlir").read_text(encoding="utf-8")
    for op in parse(text, module.context).body.operations:
        if ir.StringAttr(op.attributes["sym_name"]).value not in left_out:
            module.body.append(op.operation.clone(ip=False))


OURS = (LAUNCH, READ, ENCODE, "_mlir_memref_to_llvm_alloc", "_mlir_memref_to_llvm_free")


def _at_entry(op: ir.OpView, kind: ir.MemRefType, alignment: int | None = None) -> ir.Value:
    """Memory of the function around ``op``, made once."""
    function = op.operation
    while not isinstance(function.opview, func.FuncOp):
        function = function.parent
    with ir.InsertionPoint.at_block_begin(function.opview.entry_block), op.location:
        return memref.alloca(kind, [], [], alignment=alignment)


def _address(value: ir.Value) -> ir.Value:
    return memref.extract_aligned_pointer_as_index(value)


def _constant(value: int) -> ir.Value:
    return arith.constant(ir.IndexType.get(), value)


def _launch(op: gpu.LaunchFuncOp, number: int, maps: Mapping[ir.Value, ir.Value]) -> None:
    """``maps``: the addresses of tensor maps."""
    operands = list(op.kernelOperands)
    bare = all(is_plain(value.type) for value in operands)
    with ir.InsertionPoint(op), op.location:
        places: list[ir.Value | int] = []  # an address, or the number of a word
        words: list[ir.Value] = []
        for value in operands:
            if is_tensor_map(value.type):
                places.append(_map_at(value, maps, op))
                continue
            for word in _words(value, bare):
                places.append(len(words))
                words.append(word)
        base = _list(op, words, 64)
        addresses = [
            arith.addi(base, _constant(8 * place)) if isinstance(place, int) else place
            for place in places
        ]
        sizes = [op.gridSizeX, op.gridSizeY, op.gridSizeZ]
        sizes += [op.blockSizeX, op.blockSizeY, op.blockSizeZ]
        sizes.append(_constant(_shared(op)))
        i64 = ir.IntegerType.get_signless(64)
        ended = [*(arith.index_cast(i64, place) for place in addresses), arith.constant(i64, 0)]
        func.CallOp([], LAUNCH, [_constant(number), *sizes, _list(op, ended, 64)])
    op.operation.erase()


def _list(op: ir.OpView, numbers: Sequence[ir.Value | int], bits: int) -> ir.Value:
    """The address of integers of so many bits, one behind the other, in memory of the host."""
    kind = ir.IntegerType.get_signless(bits)
    memory = _at_entry(op, ir.MemRefType.get([max(1, len(numbers))], kind))
    for position, number in enumerate(numbers):
        value = arith.constant(kind, number) if isinstance(number, int) else number
        memref.store(value, memory, [_constant(position)])
    return _address(memory)


def _map_at(
    value: ir.Value, maps: Mapping[ir.Value, ir.Value], launch: gpu.LaunchFuncOp
) -> ir.Value:
    if value not in maps:
        raise LoweringError(
            "a tensor map: expected one that is made in the function which launches the kernel",
            op=str(launch),
            location=str(launch.location),
        )
    return maps[value]


def _encode(op: nvgpu.TmaCreateDescriptorOp) -> ir.Value:
    """Make a tensor map in memory of the host; gives the address."""
    found, source = describe(op), array_of(op)
    i8 = ir.IntegerType.get_signless(8)
    memory = _at_entry(op, ir.MemRefType.get([tensor_maps.NBYTES], i8), tensor_maps.ALIGNMENT)
    with ir.InsertionPoint(op), op.location:
        offset = list(memref.ExtractStridedMetadataOp(source).results)[1]
        nbytes = arith.muli(offset, _constant(_bytes(ir.MemRefType(source.type))))
        place = arith.addi(_address(source), nbytes)
        lists = [
            _list(op, numbers, bits)
            for numbers, bits in (
                (found.dims, 64), (found.strides, 64), (found.box, 32), ([1] * len(found.box), 32),
            )
        ]  # fmt: skip
        first = [_address(memory), _constant(found.data_type), _constant(len(found.dims)), place]
        kinds = (found.interleave, found.swizzle, found.promotion, found.fill)
        func.CallOp([], ENCODE, [*first, *lists, *map(_constant, kinds)])
        return _address(memory)


def _shared(op: gpu.LaunchFuncOp) -> int:
    """Bytes of shared memory that a block gets by its launch."""
    if op.dynamicSharedMemorySize is None:
        return 0
    nbytes = constant(op.dynamicSharedMemorySize)
    if nbytes is None:
        raise LoweringError(
            "a launch with shared memory: expected a size that is known at compile time",
            op=str(op),
            location=str(op.location),
        )
    return nbytes


def _words(value: ir.Value, bare: bool) -> list[ir.Value]:
    """A kernel argument in words of 8 bytes, as ``convert-gpu-to-nvvm`` takes its arguments."""
    i64 = ir.IntegerType.get_signless(64)
    if isinstance(value.type, ir.MemRefType):
        pointer = arith.index_cast(i64, _address(value))
        if bare:
            return [pointer]
        metadata = list(memref.ExtractStridedMetadataOp(value).results)[1:]
        return [pointer, pointer, *(arith.index_cast(i64, number) for number in metadata)]
    if isinstance(value.type, ir.IndexType):
        return [arith.index_cast(i64, value)]
    text = str(value.type)
    if text in _BITS:
        value = arith.bitcast(ir.IntegerType.get_signless(_BITS[text]), value)
    if not isinstance(value.type, ir.IntegerType):
        raise LoweringError(f"a kernel cannot take a value of type {text}")
    return [value if value.type == i64 else arith.extui(i64, value)]


def _read(op: memref.LoadOp) -> None:
    """Copy one element to the host, and load it there."""
    source, kind = op.memref, ir.MemRefType(op.memref.type)
    bytes_of = _bytes(kind)
    copy = _at_entry(op, ir.MemRefType.get([1], kind.element_type))
    with ir.InsertionPoint(op), op.location:
        metadata = list(memref.ExtractStridedMetadataOp(source).results)
        position, strides = metadata[1], metadata[2 + kind.rank :]
        for number, stride in zip(op.indices, strides, strict=True):
            position = arith.addi(position, arith.muli(number, stride))
        size = _constant(bytes_of)
        place = arith.addi(_address(source), arith.muli(position, size))
        func.CallOp([], READ, [_address(copy), place, size])
        value = memref.load(copy, [_constant(0)])
    op.result.replace_all_uses_with(value)
    op.operation.erase()


def _bytes(kind: ir.MemRefType) -> int:
    element = kind.element_type
    if isinstance(element, ir.ComplexType):
        return 2 * ir.ComplexType(element).element_type.width // 8
    return max(1, getattr(element, "width", 64) // 8)
