"""Kernels with ``wgmma`` for tests, as text, and factors as they lie in shared memory.

The layouts are those of the figures in the PTX ISA ("Shared Memory Matrix Layout"): lines of a
factor as wide as the swizzle, one panel of them after the other, in which the 16-byte chunks
change places.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

TYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32}
MODES = {16: 0, 128: 1, 64: 2, 32: 3}
"""Swizzling mode of a descriptor, by the bytes of a line; 16 is none."""
PROXY = "nvvm.fence.proxy {kind = #nvvm.proxy_kind<async.shared>, space = #nvvm.shared_space<cta>}"
SHARED = "#gpu.address_space<workgroup>"


@dataclass(frozen=True)
class Factor:
    """A factor of ``extent`` by ``depth`` in shared memory, in lines of ``width`` bytes.

    ``mn_major``: the elements of a line follow each other along M or N.
    """

    kind: str
    extent: int
    depth: int
    width: int
    mn_major: bool

    @property
    def size(self) -> int:
        return np.dtype(TYPES[self.kind]).itemsize

    @property
    def lines(self) -> int:
        return self.depth if self.mn_major else self.extent

    @property
    def nbytes(self) -> int:
        along = self.extent if self.mn_major else self.depth
        panels = -(-along * self.size // self.width)
        return panels * self.lines * self.width

    def place(self, mn: int, k: int) -> int:
        """The byte at which an element lies."""
        line, along = (k, mn) if self.mn_major else (mn, k)
        panel, rest = divmod(along * self.size, self.width)
        chunk, within = divmod(rest, 16)
        # Lines of 128 bytes in order, or as many shorter ones as fill them, take turns.
        turn = line * self.width // 128 % (self.width // 16)
        return (panel * self.lines + line) * self.width + (chunk ^ turn) * 16 + within

    def image(self, matrix: np.ndarray) -> np.ndarray:
        """The bytes of shared memory that hold it; not a number where it is not."""
        memory = np.full(self.nbytes, 0xFF, np.uint8).view(TYPES[self.kind])
        for mn in range(self.extent):
            for k in range(self.depth):
                memory[self.place(mn, k) // self.size] = matrix[mn, k]
        return memory

    def offsets(self) -> tuple[int, int]:
        """The leading and the stride dimension byte offset."""
        panel, group = self.lines * self.width, 8 * self.width
        if self.width == 16:
            return (group, panel) if self.mn_major else (panel, group)
        return (panel, group) if self.mn_major else (16, group)

    def step(self, number: int) -> int:
        """Bytes to the factor of product ``number`` along K, 32 bytes of which one takes."""
        if self.mn_major:
            return number * 32 // self.size * self.width
        panel, rest = divmod(number * 32, self.width)
        return panel * self.lines * self.width + rest

    def fields(self) -> int:
        """A descriptor but for the address."""
        leading, stride = self.offsets()
        return leading >> 4 << 16 | stride >> 4 << 32 | MODES[self.width] << 62


@dataclass(frozen=True)
class Kernel:
    """A kernel of one warpgroup: what each thread gets of ``A B``, a product for 32 bytes along K.

    Each operation can be left out, or be another one. ``wait`` is ``tie``, ``plain`` or empty,
    for all but ``group`` groups; ``between`` comes after the products were asked for; ``shift``
    is added to the descriptor of A, as ``more`` to its fields; ``copies`` are with ``cp.async``.
    """

    a: Factor
    b: Factor
    proxy: str = PROXY
    barrier: str = "gpu.barrier"
    fence: str = "nvvm.wgmma.fence.aligned"
    commit: str = "nvvm.wgmma.commit.group.sync.aligned"
    wait: str = "tie"
    between: str = ""
    align: int = 1024
    shift: str = "%zero64"
    copies: bool = False
    waits: str = "nvvm.cp.async.wait.group 0"
    looped: bool = False
    threads: int = 128
    group: int = 0
    end: bool = False
    more: int = 0

    @property
    def registers(self) -> int:
        return self.b.extent // 2

    @property
    def struct(self) -> str:
        return f"!llvm.struct<({', '.join(['f32'] * self.registers)})>"

    def text(self) -> str:
        """The module, as the stage ``outline`` leaves it."""
        words = [factor.nbytes // 4 for factor in (self.a, self.b)]
        types = [f"memref<{n}xi32>" for n in words]
        held = [f"memref<{n}xi32, {SHARED}>" for n in words]
        align = f"{{llvm.align = {self.align} : i64}}"
        return f"""
module attributes {{gpu.container_module}} {{
gpu.module @k {{
gpu.func @k(%a: {types[0]}, %b: {types[1]}, %d: memref<{self.threads}x{self.registers}xf32>)
    workgroup(%sa: {held[0]} {align}, %sb: {held[1]} {align}) kernel
    attributes {{known_block_size = array<i32: {self.threads}, 1, 1>}} {{
  %t = gpu.thread_id x
  %zero64 = arith.constant 0 : i64
  %n = arith.constant {self.threads} : index
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %zero32 = arith.constant 0 : i32
  %odd = arith.andi %t, %c1 : index
  %odd64 = arith.index_cast %odd : index to i64
  {self._fill("a", types[0], held[0], words[0])}
  {self._fill("b", types[1], held[1], words[1])}
  {self._landing()}
  {self.proxy}
  {self.barrier}
  {self._descriptor("a", self.a, held[0])}
  {self._descriptor("b", self.b, held[1])}
  %moved = arith.addi %wa, {self.shift} : i64
  %start = llvm.mlir.zero : {self.struct}
  {self._products()}
  {self._store()}
  {"nvvm.wgmma.wait.group.sync.aligned 0" if self.end else ""}
  gpu.return
}} }} }}
"""

    def _fill(self, name: str, kind: str, held: str, words: int) -> str:
        if self.copies:
            return f"""%q{name} = arith.constant {words // 4} : index
  scf.for %i = %t to %q{name} step %n {{
    %p = arith.muli %i, %c4 : index
    %token = nvgpu.device_async_copy %{name}[%p], %s{name}[%p], 4 : {kind} to {held}
  }}"""
        return f"""%q{name} = arith.constant {words} : index
  scf.for %i = %t to %q{name} step %n {{
    %v = memref.load %{name}[%i] : {kind}
    memref.store %v, %s{name}[%i] : {held}
  }}"""

    def _landing(self) -> str:
        if not self.copies:
            return ""
        return f"nvvm.cp.async.commit.group\n  {self.waits}"

    def _descriptor(self, name: str, factor: Factor, held: str) -> str:
        more = self.more if name == "a" else 0
        fields = (factor.fields() | more) - (1 << 64 if factor.fields() >> 63 else 0)
        return f"""%x{name} = memref.extract_aligned_pointer_as_index %s{name} : {held} -> index
  %y{name} = arith.index_cast %x{name} : index to i64
  %mask{name} = arith.constant {0x3FFFF} : i64
  %four{name} = arith.constant 4 : i64
  %z{name} = arith.andi %y{name}, %mask{name} : i64
  %u{name} = arith.shrui %z{name}, %four{name} : i64
  %f{name} = arith.constant {fields} : i64
  %w{name} = arith.addi %u{name}, %f{name} : i64"""

    def _mma(self, number: str, a: str, b: str, sums: str) -> str:
        kinds, size = (self.a, self.b), 32 // self.a.size
        rows = "col" if self.a.mn_major else "row", "row" if self.b.mn_major else "col"
        parts = ", ".join(
            f"{x} [<{f.kind}>, #nvvm.wgmma_scale_in<one>, <{row}>]"
            for x, f, row in zip("AB", kinds, rows, strict=True)
        )
        return (
            f"%{number} = nvvm.wgmma.mma_async {a}, {b}, {sums}, #nvvm.shape<m = 64,"
            f" n = {self.b.extent}, k = {size}>, D [<f32>, #nvvm.wgmma_scale_out<one>], {parts}"
            f" : {self.struct} -> {self.struct}"
        )

    def _products(self) -> str:
        steps = self.a.depth * self.a.size // 32
        if self.looped:
            return self._loop(steps)
        lines, sums = [self.fence], "%start"
        for number in range(steps):
            for name, start, factor in (("a", "%moved", self.a), ("b", "%wb", self.b)):
                lines.append(f"%o{name}{number} = arith.constant {factor.step(number) >> 4} : i64")
                lines.append(f"%d{name}{number} = arith.addi {start}, %o{name}{number} : i64")
            lines.append(self._mma(f"r{number}", f"%da{number}", f"%db{number}", sums))
            sums = f"%r{number}"
        lines += [self.commit, self.between, self._tied(sums, "whole")]
        return "\n  ".join(lines)

    def _loop(self, steps: int) -> str:
        """All steps have the same size; each is waited for."""
        sizes = [factor.step(1) >> 4 for factor in (self.a, self.b)]
        return f"""%steps = arith.constant {steps} : index
  %sizea = arith.constant {sizes[0]} : i64
  %sizeb = arith.constant {sizes[1]} : i64
  %whole = scf.for %i = %c0 to %steps step %c1 iter_args(%sums = %start) -> ({self.struct}) {{
    %j = arith.index_cast %i : index to i64
    %ja = arith.muli %j, %sizea : i64
    %jb = arith.muli %j, %sizeb : i64
    %ka = arith.addi %moved, %ja : i64
    %kb = arith.addi %wb, %jb : i64
    {self.fence}
    {self._mma("r", "%ka", "%kb", "%sums")}
    {self.commit}
    {self.between}
    {self._tied("%r", "there")}
    scf.yield %there : {self.struct}
  }}"""

    def _tied(self, sums: str, result: str) -> str:
        count, struct = self.registers, self.struct
        lines = []
        if self.wait != "tie":
            lines.append(f"nvvm.wgmma.wait.group.sync.aligned {self.group}" if self.wait else "")
            for i in range(count):
                lines.append(f"%{result}x{i} = llvm.extractvalue {sums}[{i}] : {struct}")
            lines.append(f"%{result}u = llvm.mlir.undef : {struct}")
            last = f"%{result}u"
            for i in range(count):
                name = f"%{result}" + (f"v{i}" if i < count - 1 else "")
                lines.append(f"{name} = llvm.insertvalue %{result}x{i}, {last}[{i}] : {struct}")
                last = name
            return "\n  ".join(lines)
        for i in range(count):
            lines.append(f"%{result}x{i} = llvm.extractvalue {sums}[{i}] : {struct}")
        constraints = ",".join(["=f"] * count + [str(i) for i in range(count)])
        operands = ", ".join(f"%{result}x{i}" for i in range(count))
        lines.append(
            f'%{result} = llvm.inline_asm has_side_effects "wgmma.wait_group.sync.aligned'
            f' {self.group};", "{constraints}" {operands} : ({", ".join(["f32"] * count)})'
            f" -> {struct}"
        )
        return "\n  ".join(lines)

    def _store(self) -> str:
        lines = []
        kind = f"memref<{self.threads}x{self.registers}xf32>"
        for i in range(self.registers):
            lines.append(f"%e{i} = llvm.extractvalue %whole[{i}] : {self.struct}")
            lines.append(f"%c{i}x = arith.constant {i} : index")
            lines.append(f"memref.store %e{i}, %d[%t, %c{i}x] : {kind}")
        return "\n  ".join(lines)


def matrix_of(registers: np.ndarray) -> np.ndarray:
    """``D`` of 64 rows, from what each of the 128 threads holds (figure of ``m64nNk16``)."""
    d = np.empty((64, 2 * registers.shape[1]), np.float32)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        for i, value in enumerate(registers[thread]):
            row = 16 * warp + lane // 4 + 8 * (i // 2 % 2)
            column = 8 * (i // 4) + lane % 4 * 2 + i % 2
            d[row, column] = value
    return d


def product(kind: str, n: int, depth: int, widths=(128, 128), majors=(False, False), **more):
    """A kernel, its factors as numbers that no rounding changes, and their images."""
    a, b = (
        Factor(kind, extent, depth, width, major)
        for extent, width, major in zip((64, n), widths, majors, strict=True)
    )
    random = np.random.default_rng(0)
    left, right = (random.integers(-8, 9, (f.extent, depth)).astype(TYPES[kind]) for f in (a, b))
    return replace(Kernel(a, b), **more), left, right
