"""Score a model from the command line: `python -m benchmarks.accuracy MODEL [--tensors FILE] [--limit N]`.

The metrics go to stdout as one JSON object, progress and errors to stderr.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import torch

from .common import read_tensors
from .data import DataNotFoundError
from .models import MODELS


def positive(text: str) -> int:
    """Read a whole number of at least one."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def main() -> int:
    """Run the command; return 0, or 1 where the data or the tensors cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="Score a model's tensors.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--tensors", type=Path, metavar="FILE", help=".safetensors or .pt (default: as published)")
    parser.add_argument("--limit", type=positive, metavar="N", help="score N items of the test data")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="processor threads (default: 2)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    model = MODELS[arguments.model]
    try:
        metrics = model.evaluate(read_tensors(arguments.tensors or model.checkpoint()), limit=arguments.limit)
    except DataNotFoundError as error:
        return _fail(str(error))
    except (OSError, ValueError, RuntimeError) as error:
        return _fail(f"{arguments.tensors or model.name}: {error}")
    print(json.dumps(metrics))
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
