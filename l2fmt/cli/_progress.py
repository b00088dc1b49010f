"""One progress bar on stderr, and none where stderr is not a terminal."""

import sys
from typing import Any, Self

# What changes length comes last, and is what a narrow terminal cuts.
_FORMAT = "{desc} {percentage:3.0f}%|{bar:12}| {elapsed}<{remaining}{postfix}"


class Progress:
    """A bar with the time left of the current stage; called with the stage and the share of it that is done.

    A stage may be followed by what changes within it: "fitting: loss 0.0123". Only a new stage is shown at once.
    """

    def __init__(self, *, quiet: bool = False):
        self._bar: Any = None
        self._stage = "reading"
        if not quiet and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._stage,
                total=1.0,
                miniters=0,
                bar_format=_FORMAT,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )

    def __call__(self, stage: str, done: float) -> None:
        if self._bar is None:
            return
        stage, _, details = stage.partition(": ")
        done = min(max(done, 0.0), 1.0)
        if done < self._bar.n:  # another round: the time left is that of this one
            self._bar.reset(total=1.0)
        self._bar.set_postfix_str(details, refresh=False)
        self._bar.set_description_str(stage, refresh=stage != self._stage)
        self._stage = stage
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
