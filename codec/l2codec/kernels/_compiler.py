"""How kernels are compiled."""

from numba import njit

kernel = njit(nogil=True, error_model="numpy")
