"""The targets by name: where inputs begin, how they are changed, and what must hold for each."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import l2codec
from tools.fuzz import coders, readers, writers
from tools.fuzz.files import mutate_file
from tools.fuzz.mutation import Mutate, mutate_json, mutate_packed, unpacked
from tools.fuzz.oracle import is_read_alike


@dataclass
class Target:
    """What is fuzzed: `run` takes an input and returns whether it was accepted; any error it raises is a find."""

    run: Callable[[bytes], bool]
    make_seeds: Callable[[], list[bytes]]
    make_mutation: Callable[[list[bytes]], Mutate]

    @cached_property
    def seeds(self) -> list[bytes]:
        """The inputs to begin with, in an order that is always the same."""
        return self.make_seeds()

    @cached_property
    def mutate(self) -> Mutate:
        """The change that makes inputs of others."""
        return self.make_mutation(self.seeds)

    def inputs(self, count: int, seed: int = 0) -> list[bytes]:
        """Return so many changed seeds, the same for the same `seed`."""
        rng = random.Random(seed)
        return [self.mutate(rng.choice(self.seeds), rng) for _ in range(count)]


def _packed(seeds: list[bytes]) -> Mutate:
    return mutate_packed([unpacked(seed) for seed in seeds])


def _json(seeds: list[bytes]) -> Mutate:
    return mutate_json


TARGETS = {
    "index": Target(readers.read_index, readers.indexes, _packed),
    "container": Target(readers.read_container, readers.files, mutate_file),
    "tables": Target(coders.read_table_set, coders.table_sets, _packed),
    "class-vectors": Target(
        readers.read_class_vectors, readers.files_with_classes, partial(mutate_file, classes_only=True)
    ),
    **{
        name: Target(coders.read_stream(name), coders.streams(name), coders.mutate_stream(name))
        for name in l2codec.CODERS
    },
    "model": Target(is_read_alike, readers.files, mutate_file),
    "shards": Target(readers.read_shards, readers.shard_indexes, _json),
    "commands": Target(readers.run_commands, readers.files, mutate_file),
    "writer": Target(writers.write_and_read, writers.settings, _packed),
    "container-writer": Target(writers.write_index, readers.indexes, _packed),
}
