"""TensorBoard logging; a failure to write its files does not stop the run."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

log = logging.getLogger(__name__)

RETRY_SECONDS = 300.0
"""Between attempts to write again after a failure, as on a full disk."""


class Board:
    """TensorBoard's writer, begun anew when its thread has died of a file that it cannot write.

    Parameters
    ----------
    folder
        Where its files go.
    step
        The step that the run goes on from; what is there of later ones is not shown.

    Raises
    ------
    TrainerError
        When TensorBoard is not installed.
    OSError
        When the first file cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise TrainerError(
                f"training needs TensorBoard ({error}): pip install 'snac-tokenizer[train]'"
            ) from error
        self._new: Callable[[], Any] = lambda: SummaryWriter(folder)
        self._writer: Any = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self._failed_at = 0.0

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add one value."""
        self._add(lambda writer: writer.add_scalar(name, value, step))

    def add_audio(self, name: str, samples: Any, step: int, sample_rate: int) -> None:
        """Add a sound, Tensor[T] within -1 and 1."""
        self._add(lambda writer: writer.add_audio(name, samples, step, sample_rate))

    def add_image(self, name: str, image: Any, step: int) -> None:
        """Add a picture, [height x width x RGB] of uint8."""
        self._add(lambda writer: writer.add_image(name, image, step, dataformats="HWC"))

    def close(self) -> None:
        """Write what is waiting."""
        self._add(lambda writer: writer.close(), anew=False)

    def _add(self, add: Callable[[Any], None], anew: bool = True) -> None:
        try:
            if self._writer is None:
                if not anew or time.monotonic() - self._failed_at < RETRY_SECONDS:
                    return
                self._writer = self._new()
            add(self._writer)
        except OSError as error:
            log.error("TensorBoard's files are not written: %s", error)
            self._failed_at = time.monotonic()
            with contextlib.suppress(OSError):
                # Its thread has ended; this closes the file.
                if self._writer is not None:
                    self._writer.close()
            self._writer = None
