"""Running compiled modules: types, calling convention, machine code, the executable."""
