"""The computation graph: its interface, its kernels, its memory."""
