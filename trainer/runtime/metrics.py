"""What a run writes down as it goes: ``metrics.csv`` for people and scripts, and TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snac_core.utils import atomic_files
from trainer.errors import TrainerError
from trainer.losses.losses import TERMS

COLUMNS = (
    *("step", "epoch", "stage", "split", "loss"),
    *TERMS,
    *("learning_rate", "gradient_norm", "code_agreement", "audio_seconds_per_second"),
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

    Raises
    ------
    TrainerError
        When TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, rows: int | None = None, step: int = 0) -> None:
        self.rows = rows or 0
        self._board: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise TrainerError(
                f"training needs TensorBoard ({error}): pip install 'snac-tokenizer[train]'"
            ) from error
        self._board = SummaryWriter(folder / "logs", purge_step=step + 1 if step else None)
        path = folder / "metrics.csv"
        kept = _first_rows(path, rows) if rows else []
        self.rows = len(kept)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows(kept)
        atomic_files.replace(path, text.getvalue().encode())
        # Line by line, so that a run that is killed has told all it knew.
        self._file = path.open("a", newline="", buffering=1)
        self._table = csv.DictWriter(self._file, COLUMNS)

    def write(
        self, split: str, values: Mapping[str, float], *, step: int, epoch: int, stage: int
    ) -> None:
        """Add a row of ``train`` or ``val``; ``values`` are named as columns are."""
        self.rows += 1
        if self._board is None:
            return
        place = {"step": step, "epoch": epoch, "stage": stage, "split": split}
        self._table.writerow({**place, **values})
        for name, value in values.items():
            self.scalar(f"{split}/{name}", value, step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one value to TensorBoard alone."""
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    @property
    def board(self) -> Any:
        """TensorBoard's writer; None where nothing is written."""
        return self._board

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()
            self._file.close()


def _first_rows(path: Path, count: int) -> list[dict[str, str]]:
    """Return up to ``count`` rows of a table; none where it does not exist."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    return rows[:count]
