"""How kernels are compiled, and how one becomes an object file that needs neither Numba nor Python to run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, from_dtype, njit, types
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.np.arrayobj import populate_array

from l2codec.errors import KernelError

# Without Numba's runtime, machine code refers to nothing outside itself but functions of the C library; memory is for
# callers to allocate. Nothing calls kernels through the wrappers that Numba would make for Python and for C.
_OPTIONS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
kernel = njit(nogil=True, error_model="numpy", **_OPTIONS)

RETURNED, RETURNED_NONE, RAISED = 0, 1, 2
"""What an entry point returns."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_HEADER = object.__basicsize__  # of every Python object; an array's has the address, the rank and the shape after it


@global_compiler_lock
def object_file(function: Any, argument_types: Sequence[str], symbol: str) -> bytes:
    """Compile a kernel for argument types as `l2codec.compiled.Kernel` writes them; return an object file.

    It defines `int32 symbol(int64 *values, int64 *result)`, which calls the kernel. `values` are integers, the bits of
    floats, and for arrays the addresses of their Python objects, of which it reads the address of the elements and the
    shape: the C structure of an array is the same in all versions of numpy. Raises KernelError if Numba is told not to
    compile, its own errors if the kernel cannot be compiled.
    """
    if getattr(config, "DISABLE_JIT", False):
        raise KernelError("NUMBA_DISABLE_JIT is set, and the kernels have not been compiled before")
    signature = tuple(_numba_type(name) for name in argument_types)
    with _without_machine_code():
        function.compile(signature)
    compiled = function.overloads[signature]
    context, description = compiled.target_context, compiled.fndesc
    returned = description.restype
    if not isinstance(returned, types.Integer | types.Boolean | types.NoneType):
        raise TypeError(f"kernel {description.qualname} returns {returned}; it may return an integer or None")

    module = context.create_module(symbol)
    callee_type = context.call_conv.get_function_type(returned, description.argtypes)
    callee = ir.Function(module, callee_type, description.llvm_func_name)
    entry = ir.Function(module, ir.FunctionType(_I32, [_I64.as_pointer(), _I64.as_pointer()]), symbol)
    builder = ir.IRBuilder(entry.append_basic_block())
    values = [
        _argument(context, builder, numba_type, builder.load(builder.gep(entry.args[0], [_I64(number)])))
        for number, numba_type in enumerate(signature)
    ]
    status, value = context.call_conv.call_function(
        builder, callee, returned, description.argtypes, values, attrs=("noinline",)
    )
    with builder.if_then(status.is_error, likely=False):
        builder.ret(_I32(RAISED))
    if isinstance(returned, types.NoneType):
        builder.ret(_I32(RETURNED_NONE))
    else:
        builder.store(context.cast(builder, value, returned, types.int64), entry.args[1])
        builder.ret(_I32(RETURNED))

    library = context.codegen().create_library(symbol)
    library.enable_object_caching()
    library.add_linking_library(compiled.library)
    library.add_ir_module(module)
    library.finalize()
    _, _, (code, _) = library.serialize_using_object_code()
    return bytes(code)


@contextmanager
def _without_machine_code() -> Iterator[None]:
    """Let Numba neither optimize nor finish what it compiles: that is done once, for the object file.

    Else it is done for each function that a kernel calls, with all that this one calls, and takes twice as long.
    """
    nothing = {
        JITCodeLibrary: ("_optimize_final_module", "_finalize_specific"),
        JITCPUCodegen: ("_add_module", "set_env"),
    }
    saved = [(owner, name, getattr(owner, name)) for owner, names in nothing.items() for name in names]
    try:
        for owner, name, _ in saved:
            setattr(owner, name, lambda *_: None)
        yield
    finally:
        for owner, name, method in saved:
            setattr(owner, name, method)


def _numba_type(name: str) -> Any:
    """Return the type for "int", "float", or an array's as "u2_1": its dtype and how many dimensions it has."""
    if name in ("int", "float"):
        return types.int64 if name == "int" else types.float64
    dtype, _, dimensions = name.partition("_")
    return types.Array(from_dtype(np.dtype(dtype)), int(dimensions), "C")


def _argument(context: Any, builder: Any, numba_type: Any, value: Any) -> Any:
    """Build the argument of a type from its 64-bit value."""
    if numba_type is types.int64:
        return value
    if numba_type is types.float64:
        return builder.bitcast(value, ir.DoubleType())

    def word_at(address: Any, offset: int) -> Any:
        return builder.load(builder.inttoptr(builder.add(address, _I64(offset)), _I64.as_pointer()))

    dimensions = word_at(value, _HEADER + 16)
    shape = [word_at(dimensions, 8 * axis) for axis in range(numba_type.ndim)]
    itemsize = _I64(context.get_abi_sizeof(context.get_data_type(numba_type.dtype)))
    steps = word_at(value, _HEADER + 24)
    strides = [word_at(steps, 8 * axis) for axis in range(numba_type.ndim)]
    array = context.make_array(numba_type)(context, builder)
    data = builder.inttoptr(word_at(value, _HEADER), context.get_data_type(numba_type.dtype).as_pointer())
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return array._getvalue()
