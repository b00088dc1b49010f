"""The bytes and the structure of `.l2c` files (spec/container.md); what the symbols mean is for `l2fmt.pipeline`."""

from l2fmt.container.atomic import atomic_write
from l2fmt.container.entries import Group, Layout, Section, Stream, TableSetEntry, TensorEntry
from l2fmt.container.header import Header
from l2fmt.container.index import Index
from l2fmt.container.limits import Limits
from l2fmt.container.reader import GroupBytes, Reader
from l2fmt.container.sections import ResumePoints, build_resume, parse_resume, strip
from l2fmt.container.shards import ShardIndex, plan_shards, read_shard_index, shard_names, write_shard_index
from l2fmt.container.writer import Writer

__all__ = [
    "Group",
    "GroupBytes",
    "Header",
    "Index",
    "Layout",
    "Limits",
    "Reader",
    "ResumePoints",
    "Section",
    "ShardIndex",
    "Stream",
    "TableSetEntry",
    "TensorEntry",
    "Writer",
    "atomic_write",
    "build_resume",
    "parse_resume",
    "plan_shards",
    "read_shard_index",
    "shard_names",
    "strip",
    "write_shard_index",
]
