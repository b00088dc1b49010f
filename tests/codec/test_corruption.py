"""Damaged streams: refused with a CodecError, or decoded to the same symbols by every implementation.

A flipped bit often gives other symbols that nothing in a coder can tell from the true ones, most of all where the
counts are powers of two: there the checksums of the container are the guard. What is tested here is that the kernels
and the reference give the same verdict on every damage, that a `rans` stream of another length is refused, and that
no other exception ever comes.
"""

import numpy as np
import pytest

from l2codec import CodecError, CorruptStreamError


def verdict(case, data, backend):
    try:
        return case.decode(data, backend=backend).tolist()
    except CorruptStreamError:
        return "refused"


def flipped(data):
    number = int.from_bytes(data, "little")
    return [(number ^ 1 << i).to_bytes(len(data), "little") for i in range(8 * len(data))]


def resized(data):
    return [data[:i] for i in range(len(data))] + [
        data + more for more in (b"\0", b"\xff", bytes(2), bytes(4), bytes(8))
    ]


@pytest.mark.parametrize("count", [0, 1, 5, 40, 300])
@pytest.mark.parametrize(("coder", "lanes"), [("rans", 1), ("rans", 4), ("range", 1), ("huffman", 1)])
def test_every_flip_and_truncation(build_case, coder, lanes, count):
    for seed in range(3):
        case = build_case(coder, 12, 8 + 2 * seed, 1 + seed, lanes, 8, count, seed)
        data = case.encode()
        for bad in flipped(data) + resized(data):
            assert verdict(case, bad, "numba") == verdict(case, bad, "reference")
        if coder == "rans":
            assert all(verdict(case, bad, "numba") == "refused" for bad in resized(data))


@pytest.mark.parametrize(("coder", "lanes"), [("rans", 32), ("range", 1), ("huffman", 1)])
def test_noise_is_never_worse_than_refused(build_case, coder, lanes):
    rng = np.random.default_rng(1)
    for seed in range(200):
        case = build_case(coder, int(rng.choice([2, 31, 300])), 12, 2, lanes, 8, int(rng.integers(1, 1000)), seed)
        noise = rng.bytes(int(rng.integers(0, 700)))
        assert verdict(case, noise, "numba") == verdict(case, noise, "reference")


@pytest.mark.parametrize("coder", ["rans", "range", "huffman"])
def test_the_block_is_named(build_case, coder):
    case = build_case(coder, 31, 10, 1, 4, 8, 1000, 3)
    data = bytearray(case.encode())
    data[8:12] = (int.from_bytes(data[8:12], "little") - 4).to_bytes(4, "little")  # the third block, cut short
    data[12:16] = (int.from_bytes(data[12:16], "little") + 4).to_bytes(4, "little")
    with pytest.raises(CorruptStreamError, match=r"^block 2: "):
        case.decode(bytes(data))


def test_a_stream_may_not_lie_about_its_blocks(build_case):
    case = build_case("rans", 31, 10, 1, 4, 8, 1000, 3)
    data = case.encode()
    for bad in (b"\xff\xff\xff\xff" + data[4:], data[:15], b""):
        with pytest.raises(CorruptStreamError):
            case.decode(bad)
    empty = build_case("rans", 31, 10, 1, 4, 8, 0, 3)
    with pytest.raises(CodecError):
        empty.decode(b"\0")
