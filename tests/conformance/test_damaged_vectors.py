"""A short run of `python -m tools.damage`: no valid vector is read with a bit turned or its end cut off."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_damaged_vectors_are_refused():
    line = [sys.executable, "-m", "tools.damage", "--every", "97"]  # no multiple of 8: every bit of bytes gets its turn
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((ROOT / "spec" / "vectors" / "manifest.json").read_text(encoding="utf-8"))
    files = len(manifest["valid"]) + len(manifest["shards"])
    found = re.fullmatch(rf"{files} files: (\S+) bits turned, (\S+) truncations, all refused\n", done.stdout)
    assert found and all(int(count.replace(",", "")) > 300 for count in found.groups()), done.stdout
