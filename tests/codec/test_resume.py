"""Resume points: every segment decodes on its own, and a wrong point is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2codec import CodecError, CorruptStreamError, decode_segment, resume_points
from l2codec.rans import count_points


def arguments(case):
    return (case.symbols.size, case.tables, case.classes), case.layout


@given(
    lanes=st.sampled_from([1, 4, 32]),
    rows=st.integers(1, 20),
    count=st.integers(0, 1500),
    n_tables=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_segments_make_up_the_stream(build_case, lanes, rows, count, n_tables, seed):
    case = build_case("rans", 31, 12, n_tables, lanes, 8, count, seed)
    data, interval = case.encode(), rows * lanes
    model, layout = arguments(case)
    points = resume_points(data, *model, **layout, interval=interval)
    assert points.shape == (count_points(count, 8, interval), 1 + lanes)
    starts = [b + i for b in range(0, count, 256) for i in range(0, min(256, count - b), interval)]
    parts = [decode_segment(data, *model, **layout, interval=interval, points=points, start=s) for s in starts]
    assert np.array_equal(np.concatenate([np.empty(0, np.uint8), *parts]), case.symbols)


def test_wrong_points_are_refused(build_case):
    case = build_case("rans", 31, 12, 2, 4, 8, 1000, 0)
    data = case.encode()
    model, layout = arguments(case)
    points = resume_points(data, *model, **layout, interval=64)
    for column in range(5):
        for bit in (0, 7, 20, 31):
            bad = points.copy()
            bad[1, column] ^= 1 << bit
            for start in (64, 128):  # the segment that ends in the point and the one that begins there
                with pytest.raises(CorruptStreamError, match="block 0"):
                    decode_segment(data, *model, **layout, interval=64, points=bad, start=start)


def test_arguments_are_checked(build_case):
    case = build_case("rans", 31, 12, 2, 4, 8, 1000, 0)
    data = case.encode()
    model, layout = arguments(case)
    points = resume_points(data, *model, **layout, interval=64)
    for interval in (0, -4, 62):
        with pytest.raises(CodecError):
            resume_points(data, *model, **layout, interval=interval)
    for bad, start in ((points[1:], 0), (points.astype(np.int64), 0), (points, 32), (points, 1000), (points, -64)):
        with pytest.raises(CodecError):
            decode_segment(data, *model, **layout, interval=64, points=bad, start=start)
    with pytest.raises(CorruptStreamError):
        resume_points(data[:-2], *model, **layout, interval=64)
