"""What a run writes down as it goes: ``metrics.csv`` for people and scripts, and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import TrainerError
from trainer.losses import TERMS

COLUMNS = (
    *("step", "epoch", "split", "loss"),
    *TERMS,
    *("learning_rate", "gradient_norm", "audio_seconds_per_second"),
)


class Metrics:
    """The open files of one run.

    Parameters
    ----------
    folder
        Where ``metrics.csv`` is started anew and TensorBoard's files go under ``logs/``.

    Raises
    ------
    TrainerError
        When TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise TrainerError(
                f"training needs TensorBoard ({error}): pip install 'snac-tokenizer[train]'"
            ) from error
        self._board = SummaryWriter(folder / "logs")
        # Line by line, so that a run that is killed has told all it knew.
        self._file = (folder / "metrics.csv").open("w", newline="", buffering=1)
        self._table = csv.DictWriter(self._file, COLUMNS)
        self._table.writeheader()

    def write(self, split: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        """Add a row of ``train`` or ``val``; ``values`` are named as columns are."""
        self._table.writerow({"step": step, "epoch": epoch, "split": split, **values})
        for name, value in values.items():
            self.scalar(f"{split}/{name}", value, step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one value to TensorBoard alone."""
        self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._board.close()
        self._file.close()
