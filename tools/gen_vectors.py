"""Write the test vectors of the specification, or check them: python tools/gen_vectors.py [--check].

`spec/vectors/valid` holds files with the digests of what they decode to, `invalid` files that break one rule each with
the code of the refusal, `sharded` both kinds of indexes of shards; `manifest.json` describes them (spec/README.md).
Nothing is fitted or drawn from a library: the bytes of a file change only if this script or the format does. Released
files are never changed; new ones are added.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from vectors import (
    invalid,
    invalid_groups,
    invalid_index,
    sharded,
    valid_coding,
    valid_edges,
    valid_tensors,
    valid_transforms,
)
from vectors.building import FileBuilder

from l2fmt.container import Reader

FOLDER = Path(__file__).parents[1] / "spec" / "vectors"


def main() -> int:
    """Write all files, or compare them with what would be written; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything is different")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: spec/vectors")
    arguments = parser.parse_args()
    files, manifest = generate()
    if arguments.check:
        problems = differences(arguments.folder, files, manifest)
        print("\n".join(problems) or f"{len(files)} vectors are as they should be")
        return int(bool(problems))
    for name, data in files.items():
        path = arguments.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (arguments.folder / "manifest.json").write_text(_text(manifest), encoding="utf-8")
    print(f"{len(files)} vectors, {sum(map(len, files.values()))} bytes")
    return 0


def generate() -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files by name, and the manifest."""
    files: dict[str, bytes] = {}
    accepted, refused = [], []
    builders = valid_coding.BUILDERS | valid_transforms.BUILDERS | valid_tensors.BUILDERS | valid_edges.BUILDERS
    for name, make in builders.items():
        builder = make()
        data = builder.finish(deflated=name in valid_tensors.DEFLATED)
        data = valid_tensors.CHANGED.get(name, bytes)(data)
        files[f"valid/{name}.l2c"] = data
        accepted.append({"file": f"valid/{name}.l2c", "about": _about(make)} | _digest(data) | _content(builder, data))
    for name, (about, code, make) in (invalid.FILES | invalid_index.FILES | invalid_groups.FILES).items():
        files[f"invalid/{name}.l2c"] = data = make()
        refused.append({"file": f"invalid/{name}.l2c", "about": about, "code": code} | _digest(data))
    return files, {"valid": accepted, "invalid": refused} | _sharded(files)


def _sharded(files: dict[str, bytes]) -> dict[str, Any]:
    """Add shards and their indexes to the files; return what the manifest says of them."""
    builders = sharded.shards()
    made = {f"sharded/{name}": builder.finish() for name, builder in builders.items()}
    aliases, tensors = {}, []
    for builder, data in zip(builders.values(), made.values(), strict=True):
        content = _content(builder, data)
        aliases |= content["aliases"]
        tensors += content["tensors"]
    accepted, refused = [], []
    for name, (about, data) in sharded.VALID.items():
        made[path := f"sharded/{name}{sharded.SUFFIX}"] = data
        accepted.append({"file": path, "about": about} | _digest(data) | {"aliases": aliases, "tensors": tensors})
    for name, (about, data) in sharded.INVALID.items():
        made[path := f"sharded/{name}{sharded.SUFFIX}"] = data
        refused.append({"file": path, "about": about, "code": invalid.CORRUPT} | _digest(data))
    files |= made
    shards = [{"file": path} | _digest(data) for path, data in made.items() if path.endswith(".l2c")]
    return {"valid_sharded": accepted, "invalid_sharded": refused, "shards": shards}


def _about(make: Any) -> str:
    return " ".join(make.__doc__.split())


def _digest(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _content(builder: FileBuilder, data: bytes) -> dict[str, Any]:
    """Describe what a file decodes to: from the builder, but for the order of its tensors."""
    with Reader(data) as reader:
        order, aliases, metadata = list(reader.tensors), dict(reader.aliases), dict(reader.metadata)
        features = reader.header.required
    tensors = []
    for name in order:
        dtype, shape, raw = builder.expected[name]
        tensors.append({"name": name, "dtype": dtype, "shape": shape, "sha256": hashlib.sha256(raw).hexdigest()})
    return {"deflated": bool(features), "metadata": metadata, "aliases": aliases, "tensors": tensors}


def differences(folder: Path, files: dict[str, bytes], manifest: dict[str, Any]) -> list[str]:
    """Return a sentence for each difference between a folder and what would be written to it.

    Builds of zlib may deflate to other bytes: a file with a deflated index may differ in them, and the manifest in its
    length and digest, while everything else must be equal.
    """
    deflated = {entry["file"] for entry in manifest["valid"] if entry["deflated"]}
    problems = []
    for name, data in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif (found := path.read_bytes()) != data and not (name in deflated and _inflated(found) == _inflated(data)):
            problems.append(f"{name} is different")
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    unknown = set(found) - files.keys() - {"manifest.json"}
    problems += [f"{name} is made by nothing" for name in sorted(unknown)]
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [*problems, f"manifest.json: {error}"]
    for entry in [*manifest["valid"], *found["valid"]]:
        if entry["file"] in deflated:
            entry |= {"bytes": 0, "sha256": ""}
    if found != json.loads(_text(manifest)):
        problems.append("manifest.json is different")
    return problems


def _inflated(data: bytes) -> tuple[bytes, bytes]:
    """Return the index and the groups and sections of a file."""
    with Reader(data) as reader:
        return reader.index.to_bytes(), data[reader.header.payload_offset :]


def _text(manifest: dict[str, Any]) -> str:
    """Return the manifest as JSON with one line for each file and each tensor."""
    kinds = []
    for kind, entries in manifest.items():
        lines = []
        for entry in entries:
            tensors = [f"   {_line(tensor)}" for tensor in entry.get("tensors", ())]
            line = _line(entry | ({"tensors": []} if tensors else {}))
            lines.append("  " + (line[: -len("]}")] + "\n" + ",\n".join(tensors) + "]}" if tensors else line))
        kinds.append(f' "{kind}": [\n' + ",\n".join(lines) + "\n ]")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
