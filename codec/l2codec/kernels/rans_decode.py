"""Decoding of interleaved rANS, in the form chosen for this processor (`l2codec.processor`)."""

from l2codec.processor import chosen_kernel

if chosen_kernel() == "avx512":
    from l2codec.kernels.vector_decode import rans_decode_avx512 as rans_decode
    from l2codec.kernels.vector_decode import rans_decode_two_avx512 as rans_decode_two
elif chosen_kernel() == "avx2":
    from l2codec.kernels.vector_decode import rans_decode_avx2 as rans_decode
    from l2codec.kernels.vector_decode import rans_decode_two_avx2 as rans_decode_two
else:
    from l2codec.kernels.rans_plain import rans_decode_plain as rans_decode
    from l2codec.kernels.rans_plain import rans_decode_two_plain as rans_decode_two

__all__ = ["rans_decode", "rans_decode_two"]
