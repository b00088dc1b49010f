"""Which form of the rANS decoder this processor gets: with AVX-512, with AVX2, or plain, which runs anywhere."""

import os
from functools import cache

from l2codec.errors import KernelError

VARIABLE = "L2FMT_KERNEL"  # its value, if there is one, is the form to use

# The features each form needs, the quickest form first.
FORMS: dict[str, frozenset[str]] = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "popcnt"}),
    "avx2": frozenset({"avx2", "popcnt"}),
    "plain": frozenset(),
}
# With one of these set, Numba compiles for something else than the processor it finds; then only `plain` is safe.
NUMBA_TARGET = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")


def chosen_kernel() -> str:
    """Return the form to use, "avx512", "avx2" or "plain"; raises KernelError if L2FMT_KERNEL asks for another."""
    usable = [name for name in FORMS if not missing(name)]
    asked = os.environ.get(VARIABLE)
    if not asked:
        return usable[0]
    if asked not in usable:
        reason = f"needs {', '.join(missing(asked))}, which are not there" if asked in FORMS else "does not exist"
        raise KernelError(f"{VARIABLE} is {asked!r}, which {reason}; allowed here: {', '.join(usable)}")
    return asked


def why() -> str:
    """Say in a few words why `chosen_kernel` is what it is; raises KernelError as it does."""
    chosen = chosen_kernel()
    if os.environ.get(VARIABLE):
        return f"{VARIABLE} asks for it"
    if told := _told():
        return f"{told} is set"
    quicker = list(FORMS)[: list(FORMS).index(chosen)]
    lacking = [f"{name} would need {', '.join(missing(name))}" for name in quicker]
    return "; ".join(lacking) or "the quickest form, and the processor has what it needs"


def missing(form: str) -> list[str]:
    """Return the features that a form needs and that cannot be used here, in alphabetical order."""
    return sorted(FORMS.get(form, frozenset()) - (frozenset() if _told() else features()))


@cache
def features() -> frozenset[str]:
    """Return the names that LLVM has for the features of this processor; empty if it cannot tell."""
    from llvmlite import binding

    try:
        return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
    except RuntimeError:  # LLVM knows no way to find out on this system
        return frozenset()


@cache
def gathers_slowly() -> bool:
    """Return whether single loads are quicker than a gather instruction: on AMD's processors, which split it up."""
    from llvmlite import binding

    return binding.get_host_cpu_name().startswith("znver")


def _told() -> str | None:
    return next((name for name in NUMBA_TARGET if os.environ.get(name)), None)
