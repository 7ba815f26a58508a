"""What the threads of a warp do together, and copies that go on by themselves, on the processor.

``ldmatrix`` and ``mma.sync`` become calls to which every lane brings its registers, and from which
it gets its part of the answer; asynchronous copies are done when they are waited for, and what
they will overwrite is poisoned as soon as they are asked for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np

from mlcflow.mlir import arith, func, ir, llvm, memref, nvgpu, nvvm, vector

LDMATRIX, MMA = "test_ldmatrix", "test_mma"
COPY, COMMIT, WAIT = "test_copy", "test_commit", "test_wait"
ARGUMENTS = {LDMATRIX: (3, 1), MMA: (11, 1), COPY: (3, 0), COMMIT: (0, 0), WAIT: (1, 0)}
"""How many words these functions take and give."""
TOGETHER = ("nvgpu.ldmatrix", "nvgpu.mma.sync", "nvgpu.device_async_copy")
TYPES = {0: np.float16, 1: ml_dtypes.bfloat16, 2: np.float32}
_NAMES = {"f16": 0, "bf16": 1, "f32": 2}
PIECE = 16


class Problem(Exception):
    """Something that a GPU would do wrong, or not at all."""


class Warps:
    """The functions, for the threads of one block. ``meet(words)`` waits until all lanes of a warp
    have come, and gives the words of each lane, and the thread that asks.

    ``conflicts`` counts pieces of 16 bytes that ``ldmatrix`` found in banks that were busy.
    """

    def __init__(self, meet: Callable[[tuple[int, ...]], tuple[int, list]]) -> None:
        self._meet, self.conflicts = meet, 0
        self.on_copy = self.on_landing = lambda thread, to, nbytes: None
        self._answers: dict[int, np.ndarray] = {}
        self._open: dict[int, list] = {}
        self._groups: dict[int, list[list]] = {}

    def start(self) -> None:
        """Forget the threads of the last block."""
        self._answers, self._open, self._groups = {}, {}, {}

    def _answer(self, thread: int, words: Sequence[int]) -> int:
        """The address of the words that a thread gets; they stay until it asks again."""
        self._answers[thread] = np.array(words, np.uint32)
        return int(self._answers[thread].ctypes.data)

    def ldmatrix(self, address: int, transposed: int, tiles: int) -> int:
        """Word ``t`` of each of the tiles for this lane."""
        thread, lanes = self._meet((address, transposed, tiles))
        lane, words = thread % 32, []
        rows = [words[0] for words in lanes]
        if lane == 0:
            self._check(rows[: 8 * tiles])
        for tile in range(tiles):
            group, rest = divmod(lane, 4)
            if transposed:
                above, below = (rows[8 * tile + 2 * rest + n] + 2 * group for n in (0, 1))
                words.append(_read(above, 2) | _read(below, 2) << 16)
            else:
                words.append(_read(rows[8 * tile + group] + 4 * rest, 4))
        return self._answer(thread, words)

    def _check(self, rows: list[int]) -> None:
        if any(address % PIECE for address in rows):
            raise Problem("ldmatrix from an address that is no multiple of 16")
        for first in range(0, len(rows), 8):
            self.conflicts += 8 - len({row // PIECE % 8 for row in rows[first : first + 8]})

    def mma(self, *words: int) -> int:
        """The sums of this lane: ``words`` are the type, 4 of A, 2 of B, 4 of sums."""
        thread, lanes = self._meet(words)
        table = np.array([[word & 0xFFFFFFFF for word in lane] for lane in lanes], np.uint32)
        sums = _multiply(TYPES[words[0]], table[:, 1:5], table[:, 5:7], table[:, 7:11])
        return self._answer(thread, sums[thread % 32].view(np.uint32))

    def copy(self, thread: int, to: int, source: int, nbytes: int) -> None:
        """Ask for a copy of this thread."""
        if nbytes != PIECE or to % PIECE or source % PIECE:
            raise Problem("an asynchronous copy of what is not aligned to 16 bytes")
        ctypes.memset(to, 0xFF, nbytes)
        self.on_copy(thread, to, nbytes)
        self._open.setdefault(thread, []).append((to, source, nbytes))

    def commit(self, thread: int) -> None:
        """Make a group of the copies since the last one."""
        self._groups.setdefault(thread, []).append(self._open.pop(thread, []))

    def wait(self, thread: int, count: int) -> None:
        """Do all but the last ``count`` groups."""
        groups = self._groups.get(thread, [])
        while len(groups) > count:
            for to, source, nbytes in groups.pop(0):
                ctypes.memmove(to, source, nbytes)
                self.on_landing(thread, to, nbytes)


def _read(address: int, nbytes: int) -> int:
    return int.from_bytes(ctypes.string_at(address, nbytes), "little")


def _multiply(kind: type, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``C + A B`` from and to the registers of 32 lanes."""
    if kind == np.float32:  # the chip reads the upper 19 bits
        a, b = (np.ascontiguousarray(each) & np.uint32(0xFFFFE000) for each in (a, b))
    words = 4 // np.dtype(kind).itemsize
    left = _values(a, kind).reshape(8, 4, 2, 2, words)  # group, rest, right, below, along k
    right = _values(b, kind).reshape(8, 4, 2, words)  # group, rest, below, along k
    whole_a = left.transpose(3, 0, 2, 1, 4).reshape(16, 8 * words)
    whole_b = right.transpose(2, 1, 3, 0).reshape(8 * words, 8)
    sums = np.ascontiguousarray(c).view(np.float32).reshape(8, 4, 2, 2)
    product = (whole_a @ whole_b).astype(np.float32).reshape(2, 8, 4, 2)
    return np.ascontiguousarray((sums + product.transpose(1, 2, 0, 3)).reshape(32, 4))


def _values(words: np.ndarray, kind: type) -> np.ndarray:
    return np.ascontiguousarray(words).view(kind).astype(np.float64)


def replace(op: ir.OpView) -> bool:
    """Put calls of these functions in the place of ``op``; whether it is one of ours."""
    with ir.InsertionPoint(op):
        if isinstance(op, nvgpu.LdMatrixOp):
            _replace_ldmatrix(op)
        elif isinstance(op, nvgpu.MmaSyncOp):
            _replace_mma(op)
        elif isinstance(op, nvgpu.DeviceAsyncCopyOp):
            _replace_copy(op)
        elif isinstance(op, nvvm.CpAsyncCommitGroupOp):
            func.CallOp([], COMMIT, [])
        elif isinstance(op, nvvm.CpAsyncWaitGroupOp):
            func.CallOp([], WAIT, [_word(ir.IntegerAttr(op.attributes["n"]).value)])
        elif isinstance(op, nvvm.ConvertFloatToTF32Op):
            _replace_rounding(op)
        else:
            return False
    op.operation.erase()
    return True


def _word(number: int) -> ir.Value:
    return arith.constant(ir.IntegerType.get_signless(64), number)


def _address(source: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
    kind, index = ir.MemRefType(source.type), ir.IndexType.get()
    metadata = list(memref.ExtractStridedMetadataOp(source).results)
    position = metadata[1]
    for number, stride in zip(indices, metadata[2 + kind.rank :], strict=True):
        position = arith.addi(position, arith.muli(number, stride))
    size = arith.constant(index, kind.element_type.width // 8)
    base = memref.extract_aligned_pointer_as_index(source)
    return arith.index_cast(_i64(), arith.addi(base, arith.muli(position, size)))


def _i64() -> ir.Type:
    return ir.IntegerType.get_signless(64)


def _words(registers: ir.Value) -> list[ir.Value]:
    """The rows of a vector of two dimensions, 32 bits each, as words."""
    i32 = ir.VectorType.get([1], ir.IntegerType.get_signless(32))
    found = []
    for row in range(ir.VectorType(registers.type).shape[0]):
        bits = vector.bitcast(i32, vector.extract(registers, [], [row]))
        found.append(arith.extui(_i64(), vector.extract(bits, [], [0])))
    return found


def _registers(address: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A vector of two dimensions from the words at ``address``."""
    pointer = llvm.inttoptr(ir.Type.parse("!llvm.ptr"), address)
    count = int(np.prod(kind.shape)) * kind.element_type.width // 32
    i32 = ir.IntegerType.get_signless(32)
    words = llvm.load(ir.VectorType.get([count], i32), pointer, alignment=4)
    flat = vector.bitcast(ir.VectorType.get([int(np.prod(kind.shape))], kind.element_type), words)
    return vector.shape_cast(kind, flat)


def _replace_ldmatrix(op: nvgpu.LdMatrixOp) -> None:
    flags = [_word(int(bool(op.transpose))), _word(ir.IntegerAttr(op.attributes["numTiles"]).value)]
    where = _address(op.srcMemref, list(op.indices))
    answer = func.CallOp([_i64()], LDMATRIX, [where, *flags]).results[0]
    op.res.replace_all_uses_with(_registers(answer, ir.VectorType(op.res.type)))


def _replace_mma(op: nvgpu.MmaSyncOp) -> None:
    kind = _NAMES[str(ir.VectorType(op.matrixA.type).element_type)]
    sums = ir.VectorType(op.matrixC.type)
    flat = vector.shape_cast(ir.VectorType.get([4, 1], sums.element_type), op.matrixC)
    words = [word for each in (op.matrixA, op.matrixB, flat) for word in _words(each)]
    answer = func.CallOp([_i64()], MMA, [_word(kind), *words]).results[0]
    op.res.replace_all_uses_with(_registers(answer, sums))


def _replace_copy(op: nvgpu.DeviceAsyncCopyOp) -> None:
    to = _address(op.dst, list(op.dstIndices))
    source = _address(op.src, list(op.srcIndices))
    bits = ir.MemRefType(op.dst.type).element_type.width
    nbytes = ir.IntegerAttr(op.attributes["dstElements"]).value * bits // 8
    func.CallOp([], COPY, [to, source, _word(nbytes)])


def _replace_rounding(op: nvvm.ConvertFloatToTF32Op) -> None:
    """To nearest, ties away from zero; what is not a number stays so."""
    i32 = ir.IntegerType.get_signless(32)
    bits = arith.bitcast(i32, op.src)
    half = arith.addi(bits, arith.constant(i32, 0x1000))
    rounded = arith.andi(half, arith.constant(i32, -0x2000))
    exponent = arith.constant(i32, 0x7F800000)
    masked = arith.andi(bits, exponent)
    special = arith.cmpi(arith.CmpIPredicate.eq, masked, exponent)
    op.res.replace_all_uses_with(arith.select(special, bits, rounded))


def declare() -> None:
    """Declarations of the functions, at the insertion point."""
    for name, (takes, gives) in ARGUMENTS.items():
        func.FuncOp(name, ([_i64()] * takes, [_i64()] * gives), visibility="private")
