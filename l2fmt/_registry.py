"""Ids, names and limits of the format: spec/registry.toml as Python constants (a test holds the two equal)."""

FORMAT_MAJOR = 0
FORMAT_MINOR = 1

# Bit numbers of the header's feature sets.
REQUIRED_FEATURES = {"deflated_index": 0}
OPTIONAL_FEATURES: dict[str, int] = {}

# name: (id, bits of an element, kind)
DTYPES = {
    "BOOL": (0, 8, "bool"),
    "U8": (1, 8, "uint"),
    "I8": (2, 8, "int"),
    "U16": (3, 16, "uint"),
    "I16": (4, 16, "int"),
    "U32": (5, 32, "uint"),
    "I32": (6, 32, "int"),
    "U64": (7, 64, "uint"),
    "I64": (8, 64, "int"),
    "F16": (9, 16, "float"),
    "BF16": (10, 16, "float"),
    "F32": (11, 32, "float"),
    "F64": (12, 64, "float"),
    "C64": (13, 64, "complex"),
    "F8_E4M3": (14, 8, "float"),
    "F8_E5M2": (15, 8, "float"),
    "F8_E4M3FNUZ": (16, 8, "float"),
    "F8_E5M2FNUZ": (17, 8, "float"),
    "F8_E8M0": (18, 8, "float"),
    "F4_X2": (19, 8, "packed"),
}

# Kinds of scales besides dtypes.
SCALES = {"octaves": 64}

TRANSFORMS = {"bits": 0, "uniform": 1, "joint": 2, "geometric": 3, "codebook": 4}
BITS, UNIFORM, JOINT, GEOMETRIC, CODEBOOK = TRANSFORMS.values()

CODERS = {"raw": 0, "rans": 1, "range": 2, "huffman": 3}
RAW, RANS, RANGE, HUFFMAN = CODERS.values()

# Entropy coding; pairs are inclusive ranges.
PROBABILITY_BITS = (8, 14)
MAX_ALPHABET = 65536
MAX_TABLES = 64
MAX_LANE_BITS = 5
BLOCK_BITS = (8, 30)
MAX_RAW_WIDTH = 16

# Rules of the format: a file beyond them is corrupt.
MAX_NAME_BYTES = 1024
MAX_RANK = 32
MAX_DIMENSION_BITS = 48
MAX_INDEX_DEPTH = 8

# Defaults of `l2fmt.container.Limits`: a file beyond them is over a limit.
MAX_INDEX_BYTES = 16777216
MAX_INFLATED_INDEX_BYTES = 16777216
MAX_TENSORS = 131072
MAX_TABLE_BYTES = 16777216
