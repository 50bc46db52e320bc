"""How far a run is: a bar on a terminal, a line now and then elsewhere, and metrics in Ray."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics
from tqdm import tqdm

from bulk.output import DONE, FAILED, LEFT_OUT

LINE_SECONDS = 30.0
"""Between two lines where no terminal shows a bar."""


@dataclasses.dataclass
class Summary:
    """What a run has done so far.

    Attributes
    ----------
    found
        Clips in the input.
    skipped
        Clips that the output already held.
    done, left_out, failed
        Clips of this run: with codes, beyond its limits of length, and not readable.
    seconds
        Audio of those with codes.
    reasons
        Failures by their reason, the first hundred reasons.
    working
        Seconds from the first codec that was up to the last shard, once the run is over.
    """

    found: int = 0
    skipped: int = 0
    done: int = 0
    left_out: int = 0
    failed: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    working: float = 0.0

    @property
    def remaining(self) -> int:
        """Clips still to do; 0 when the run is over."""
        return self.found - self.skipped - self.done - self.left_out - self.failed

    def add(self, ledger: pa.Table) -> dict[str, int]:
        """Count a group, and return how many clips came to which status."""
        counts = {
            one["values"]: one["counts"] for one in pc.value_counts(ledger["status"]).to_pylist()
        }
        self.done += counts.get(DONE, 0)
        self.left_out += counts.get(LEFT_OUT, 0)
        self.failed += counts.get(FAILED, 0)
        self.seconds += pc.sum(ledger["seconds"]).as_py() or 0.0
        if counts.get(FAILED):
            for reason in ledger.filter(pc.equal(ledger["status"], FAILED))["reason"].to_pylist():
                if reason in self.reasons or len(self.reasons) < 100:
                    self.reasons[reason] = self.reasons.get(reason, 0) + 1
        return counts


class Progress:
    """Shows how far a run is; a context manager.

    Parameters
    ----------
    summary
        Counted by the run itself.
    quiet
        Whether to show nothing.
    """

    def __init__(self, summary: Summary, quiet: bool = False) -> None:
        self.summary, self._quiet = summary, quiet
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        self._clips = metrics.Counter(
            "snac_bulk_clips", "Clips of corpora, by what became of them.", ("status",)
        )
        self._audio = metrics.Counter("snac_bulk_audio_seconds", "Audio with codes, in seconds.")
        self._left = metrics.Gauge("snac_bulk_clips_remaining", "Clips still to do.")

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            total = self.summary.found
            self._bar = tqdm(total=total, initial=self.summary.skipped, unit="clip")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, counts: Mapping[str, int], seconds: float) -> None:
        """Say that a group was written."""
        for status, count in counts.items():
            self._clips.inc(count, {"status": status})
        if seconds:
            self._audio.inc(seconds)
        self._left.set(self.summary.remaining)

    def show(self, encoded_seconds: float, codecs: int) -> None:
        """Show how far the run is.

        Parameters
        ----------
        encoded_seconds
            Audio encoded, part of which may not be written yet.
        codecs
            How many are at work.
        """
        if self._quiet:
            return
        now = time.monotonic()
        speed = encoded_seconds / max(now - self._began, 1e-9)
        one = self.summary
        figures = (
            f"{encoded_seconds / 3600:.2f} h of audio, {speed:.1f} x real time, "
            f"{one.failed} failed, {codecs} codecs"
        )
        if self._bar is not None:
            self._bar.n = one.found - one.remaining
            self._bar.set_postfix_str(figures)
        elif now - self._told >= LINE_SECONDS:
            self._told = now
            made = one.done + one.left_out + one.failed
            left = (now - self._began) / made * one.remaining if made else None
            sys.stderr.write(
                f"{one.found - one.remaining} of {one.found} clips, {figures}, "
                f"{'?' if left is None else f'{left / 60:.0f}'} min left\n"
            )
            sys.stderr.flush()
