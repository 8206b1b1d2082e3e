"""One progress line of ours: rewritten in place on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

EVERY_S = 10.0  # between plain lines


def say(text: str) -> None:
    """A line for people; stdout is kept for results."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """`generate 120/1250 images, 24.1/s, 47 s left`; what is left is told by effort, if some cost more than others."""

    def __init__(self, what: str, unit: str, total: int, effort: float | None = None) -> None:
        self.what, self.unit, self.total = what, unit, total
        self.effort, self.spent = float(total if effort is None else effort), 0.0
        self.done, self.last, self.note = 0, 0, ""
        self.started = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # how far it came is said in any case, and once
        if self.done and (self.live or self.last != self.done):
            self._show(end="\n")

    def add(self, count: int, note: str = "", effort: float | None = None) -> None:
        # what was lost with a process and is done once more is not more than all
        self.done = min(self.done + count, self.total)
        self.spent = min(self.spent + (count if effort is None else effort), self.effort)
        self.note = note
        now = time.monotonic()
        # before anything is done there is no rate, and nothing to say of what is left
        if self.done and now - self.shown > (0.1 if self.live else EVERY_S):
            self.shown, self.last = now, self.done
            self._show(end="" if self.live else "\n")

    def _show(self, end: str) -> None:
        passed = time.monotonic() - self.started
        rate = self.done / max(passed, 1e-9)
        # by effort, not by count: units that ask the denoiser more often take longer
        left = passed * (self.effort - self.spent) / max(self.spent, 1e-9)
        when = f"{passed:.0f} s" if self.done >= self.total else f"{left:.0f} s left"
        line = f"{self.what} {self.done}/{self.total} {self.unit}, {rate:.3g}/s, {when}"
        line += f", {self.note}" if self.note else ""
        # erased to the end of the line, so that a shorter text leaves nothing of a longer one behind
        print(f"\r\033[K{line}" if self.live else line, end=end, file=sys.stderr, flush=True)
