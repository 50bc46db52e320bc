"""The metrics of a run: ``metrics.csv`` and TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snac_core.utils import atomic_files
from trainer.config.types import QUALITIES
from trainer.losses.losses import TERMS
from trainer.runtime.board import Board
from trainer.runtime.tracker import Tracker

log = logging.getLogger(__name__)

COLUMNS = (
    *("step", "epoch", "stage", "split", "loss"),
    *TERMS,
    *QUALITIES,
    *("learning_rate", "gradient_norm", "code_agreement", "audio_seconds_per_second"),
    *("wall_seconds", "gpu_memory_gib"),
)


class Metrics:
    """The open files of one run; only the first of several processes has any.

    Parameters
    ----------
    folder
        Where ``metrics.csv`` is started, and TensorBoard's files go under ``logs/``. None
        writes nothing.
    rows
        Rows of an existing ``metrics.csv`` to keep, as the checkpoint that the run goes on
        from knew no more; None starts anew.
    step
        The step that the run goes on from.
    tracker
        Is told each row too.

    Raises
    ------
    TrainerError
        When TensorBoard is not installed.

    Attributes
    ----------
    board
        TensorBoard's writer; None where nothing is written.
    """

    def __init__(
        self,
        folder: Path | None,
        rows: int | None = None,
        step: int = 0,
        tracker: Tracker | None = None,
    ) -> None:
        self.rows, self.tracker = rows or 0, tracker
        self.board: Board | None = None
        if folder is None:
            return
        self.board = Board(folder / "logs", step)
        path = folder / "metrics.csv"
        kept = _first_rows(path, rows) if rows else []
        self.rows = len(kept)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows(kept)
        atomic_files.replace(path, text.getvalue().encode())
        self._table = Table(path, COLUMNS)

    def write(
        self, split: str, values: Mapping[str, float], *, step: int, epoch: int, stage: int
    ) -> None:
        """Add a row of ``train`` or ``val``; ``values`` are named as columns are."""
        self.rows += 1
        if self.board is None:
            return
        place = {"step": step, "epoch": epoch, "stage": stage, "split": split}
        self._table.add({**place, **values})
        for name, value in values.items():
            self.scalar(f"{split}/{name}", value, step)
        if self.tracker is not None:
            self.tracker.log({f"{split}/{name}": value for name, value in values.items()}, step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one value to TensorBoard alone."""
        if self.board is not None:
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        if self.board is not None:
            self.board.close()
            self._table.close()
        if self.tracker is not None:
            self.tracker.close()


class Table:
    """Rows appended to a CSV file; rows that a full disk refuses are written once there is room.

    Parameters
    ----------
    path
        Has its header.
    columns
        What the header says.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns
        # Row by row, so that a run that is killed has told all it knew.
        self._file = path.open("ab", buffering=0)
        self._waiting, self._failed = b"", False

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, and what waits from before."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerow(row)
        self._waiting += text.getvalue().encode()
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("%s is not written: %s", self.path, error)
            self._failed = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _first_rows(path: Path, count: int) -> list[dict[str, str]]:
    """Return up to ``count`` rows of a table; none where it does not exist."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    return rows[:count]
