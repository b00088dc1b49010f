"""How scales are stored: in the shortest form that keeps them, and read as they were."""

import numpy as np
import pytest

from l2fmt.container import Reader, Writer
from l2fmt.container.entries import OCTAVES
from l2fmt.dtypes import DTYPES
from l2fmt.errors import CorruptFileError
from l2fmt.pipeline import QuantizedTensor, decode_tensor, write_model
from l2fmt.pipeline.scales import StoredScale, scale_values, stored_scale
from l2fmt.transforms import Uniform, octave_scales

KINDS = {"octaves": OCTAVES} | {name: DTYPES[name] for name in ("F8_E8M0", "BF16", "F32")}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, 1, 2.0**15, 2.0**-16], "octaves"),
        (octave_scales(np.arange(-128, 128)), "octaves"),
        ([0.5, 1, 2.0**16], "F8_E8M0"),
        ([2.0**100, 2.0**-126], "F8_E8M0"),
        ([1.5, 2, 0.0703125], "BF16"),
        ([0.1, 2], "F32"),
        ([np.nextafter(np.float32(2**0.5), np.float32(0)), 2], "F32"),
    ],
)
def test_the_shortest_form_that_keeps_a_scale(values: list[float], kind: str) -> None:
    scale = np.array(values, np.float32)
    stored = stored_scale(scale)
    assert stored.kind == KINDS[kind] and len(stored.data) == scale.size * KINDS[kind].itemsize
    found = scale_values(stored, "w")
    assert found is not None and found.tobytes() == scale.tobytes()


def test_no_scale() -> None:
    assert stored_scale(None) == StoredScale() and scale_values(StoredScale(), "w") is None


def test_scales_that_are_not_allowed() -> None:
    for values in ([0.0, 1], [np.nan, 1], [-1.0, 1]):
        with pytest.raises(CorruptFileError, match="'w': a scale is not finite and positive"):
            scale_values(StoredScale(DTYPES["F32"], np.array(values, "<f4").tobytes()), "tensor 'w'")


@pytest.mark.parametrize("coder", ["rans", "raw"])
def test_octave_scales_cost_what_they_tell(coder: str) -> None:
    """A file grows by about the entropy of the offsets, whatever codes the weights."""
    from l2fmt.pipeline import Encoding

    rng = np.random.default_rng(2)
    rows, columns = 3000, 40
    codes = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
    offsets = rng.choice([-2, 0, 2, 4], rows, p=[0.25, 0.5, 0.125, 0.125])
    files = {}
    for name, row in (("plain", None), ("octaves", octave_scales(offsets))):
        tensor = QuantizedTensor("w", DTYPES["F32"], codes.shape, codes, Uniform(0.5), row_scale=row)
        with Writer() as writer:
            write_model(writer, [tensor], Encoding(coder=coder))
        files[name] = writer.getvalue()
        with Reader(files[name]) as reader:
            scale = np.ones((rows, 1), np.float32) if row is None else row[:, None]
            expected = codes.astype(np.float32) * np.float32(0.5) * scale
            assert decode_tensor(reader, "w").tobytes() == expected.tobytes()
            [group] = reader.index.groups
            assert group.scales[0] == (None if row is None else OCTAVES) and group.scale_bytes == (0, 0)
    more = len(files["octaves"]) - len(files["plain"])
    assert 1.75 * rows / 8 <= more < 1.75 * rows / 8 + 60
