"""Strict JSON objects, for the headers and indexes of other formats."""

import json
from typing import Any

from l2fmt.errors import InputError


def parse_object(text: bytes, origin: str) -> dict[str, Any]:
    """Parse a JSON object; raise InputError for anything else, and for a key that appears twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise InputError(f"{origin}: the key {key!r} appears twice")
            result[key] = value
        return result

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{origin}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{origin}: holds a JSON {type(value).__name__}; expected an object")
    return value
