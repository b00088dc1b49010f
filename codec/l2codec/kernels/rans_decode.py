"""Decoding of interleaved rANS, in the form chosen for this processor (`l2codec.processor`)."""

from l2codec.processor import chosen_kernel

if chosen_kernel() == "avx512":
    from l2codec.kernels.vector_decode import rans_decode_avx512 as rans_decode
    from l2codec.kernels.vector_decode import rans_decode_four_avx512 as rans_decode_four
elif chosen_kernel() == "avx2":
    from l2codec.kernels.vector_decode import rans_decode_avx2 as rans_decode
    from l2codec.kernels.vector_decode import rans_decode_four_avx2 as rans_decode_four
else:
    from l2codec.kernels.rans_plain import rans_decode_four_plain as rans_decode_four
    from l2codec.kernels.rans_plain import rans_decode_plain as rans_decode

__all__ = ["rans_decode", "rans_decode_four"]
