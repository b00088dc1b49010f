"""One progress bar on stderr, and none where stderr is not a terminal."""

import sys
from typing import Any, Self

_FORMAT = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}"


class Progress:
    """A bar with the time left of the current stage; called with the stage and the share of it that is done."""

    def __init__(self, *, quiet: bool = False):
        self._bar: Any = None
        self._stage = ""
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=1.0, bar_format=_FORMAT, file=sys.stderr, leave=False)

    def __call__(self, stage: str, done: float) -> None:
        if self._bar is None:
            return
        if stage != self._stage:
            self._stage = stage
            self._bar.reset(total=1.0)
            self._bar.set_description_str(stage, refresh=False)
        self._bar.n = min(max(done, 0.0), 1.0)
        self._bar.update(0)
        self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
