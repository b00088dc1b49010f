"""What is compiled: a module for each coder, one for writers. Only `l2codec.machine_code` imports it, to compile.

Callers go through `l2codec.compiled.Kernel`. Kernels cannot allocate memory, and do not write to arrays that callers
may have made read-only. They take validated arguments and report failure as a result. All bounds on what a stream can
make a kernel read are checked in the kernel; every write is bounded by the size of an argument. Indices are unsigned,
so that Numba leaves out its handling of negative ones. `classes` is empty if all symbols have class 0.
"""
