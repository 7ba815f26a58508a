"""The ``mlcflow`` dialect: the attributes by which a module describes itself.

It has no operations. Its attributes keep what a stage must know inside the module, so that
a module saved to a file resumes where it stopped:

=========================  ====================  ===============================================
attribute                  on                    meaning
=========================  ====================  ===============================================
``mlcflow.input``          argument              name of a value the caller passes
``mlcflow.parameter``      argument              name of a weight or buffer, passed by reference
``mlcflow.prepared``       argument, result      value ``@prepare`` makes once from parameters
``mlcflow.output``         result, argument      name of a value the caller receives
``mlcflow.mutates``        result, argument      parameter or input that the result overwrites
``mlcflow.dtype``          argument, result      element type where MLIR's is signless (``uint8``)
``mlcflow.arena``          argument              scratch memory, in bytes, planned at compile time
``mlcflow.status``         argument              0, or 1 + the number of a failed assertion
``mlcflow.assertions``     module                messages of the assertions, in that order
``mlcflow.interface``      module                the above for ``@main``, kept beyond LLVM types
``mlcflow.kernel``         function              cut out of the graph as one kernel
``mlcflow.goes_on``        cf.assert             the code behind it is safe whether it holds or not
``mlcflow.rule``           function              the schedule rule that applied to the kernel
``mlcflow.causal``         function              attention: queries, keys; no later ones are seen
``mlcflow.library``        declaration, op       the library function that computes it
``mlcflow.block``          linalg operation      its name in a schedule, see ``schedule/labels.py``
``mlcflow.loops``          linalg operation      the names of its own loops
``mlcflow.loop``           loop                  its name; ``mlcflow.of``: the block it came from
``mlcflow.kind``           loop                  ``parallel`` or ``reduction``
``mlcflow.parallel``       loop                  its iterations may run at the same time
``mlcflow.threads``        module                how many threads it was compiled for
``mlcflow.scratch``        argument              memory lent to a kernel: bytes of each thread's
``mlcflow.memory``         module                the memory plan, see ``graph/memory.py``
``mlcflow.bind``           loop                  the GPU axis it is mapped to
``mlcflow.intrinsic``      linalg operation      the instruction that computes it (``nvgpu.mma``)
``mlcflow.stages``         linalg.copy           how many tiles of shared memory it fills ahead
``mlcflow.by``             linalg.copy           what copies: ``tma``, or the threads of the block
``mlcflow.swizzle``        allocation            how its rows lie in banks, see ``gpu/swizzle.py``
``mlcflow.own``            allocation            each thread has one of its own
``mlcflow.ordered``        loop                  waits for what it needs by itself
``mlcflow.constant``       argument              name of a constant array, see ``mlcflow.constants``
``mlcflow.constants``      module                constant arrays that host code passes to kernels
``mlcflow.gpu_kernels``    module                names of the kernels, by the numbers of host code
``mlcflow.gpu_shared``     module                bytes of shared memory that each gets by its launch
``mlcflow.tensor_map``     argument              of a kernel: a tensor map, taken by value
=========================  ====================  ===============================================
"""

from __future__ import annotations

from mlcflow.mlir import ext


class Attributes(ext.Dialect, name="mlcflow"):  # type: ignore[call-arg]
    """Owner of the ``mlcflow.*`` attribute names."""


def load() -> None:
    """Load the dialect into the current context (a second load in one context raises)."""
    Attributes.load()
