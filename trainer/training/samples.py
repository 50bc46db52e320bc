"""Audio and spectrograms of validation segments for TensorBoard."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snac_core.model import SNAC
from snac_core.model.noise import Noise
from trainer.losses.losses import magnitude
from trainer.model.compile import uncompiled
from trainer.runtime.board import Board
from trainer.training.batches import Batch
from trainer.training.validation import ValidationSet

N_FFT = 1024
RANGE_DB = 80.0
"""Between the brightest point of a picture and the darkest."""


class Samples:
    """The first few validation segments, original and reconstructed.

    Parameters
    ----------
    validation_set
        Where they are from.
    count
        How many; 0 for none.
    board
        TensorBoard's writer; None shows nothing.
    """

    def __init__(self, validation_set: ValidationSet, count: int, board: Board | None) -> None:
        self.validation_set, self.board = validation_set, board
        self.count = count if board is not None else 0

    def show_originals(self) -> None:
        """Show the recordings."""
        for place, segment in self._segments():
            self._show(f"{place}/original", segment.audio[0, 0] * segment.own[0, 0], 0)

    @torch.no_grad()
    def show(self, model: SNAC, step: int) -> None:
        """Show their reconstructions by ``model`` at ``step``."""
        with uncompiled(self.validation_set.config.compile):
            for place, segment in self._segments():
                noise = Noise(segment.places, torch.zeros_like(segment.places))
                out = model(segment.audio, segment.context(model.config, noise))
                self._show(f"{place}/reconstructed", out.audio[0, 0] * segment.own[0, 0], step)

    def _segments(self) -> list[tuple[int, Batch]]:
        segments = self.validation_set.segments(self.validation_set.seconds)
        found = []
        for place in range(min(self.count, len(segments))):
            segment = segments[place]
            loaded = type(segment)(segment.audio[None], segment.own[None])
            if loaded.own.any():
                found.append((place, self.validation_set.transfer.take(loaded, place)))
        return found

    def _show(self, name: str, audio: Tensor, step: int) -> None:
        rate = self.validation_set.sample_rate
        assert self.board is not None
        self.board.add_audio(f"audio/{name}", audio.float().clamp(-1, 1).cpu(), step, rate)
        self.board.add_image(f"spectrogram/{name}", picture(audio), step)


def picture(audio: Tensor) -> npt.NDArray[np.uint8]:
    """Return the spectrogram of ``audio``, Tensor[T], as [bins x frames x RGB], low bins last."""
    from matplotlib import colormaps

    size = magnitude(audio.float().cpu()[None, None], N_FFT, hann=True)[0]
    level = 20.0 * torch.log10(size / size.max().clamp(min=1e-5))
    shown = (level / RANGE_DB + 1.0).clamp(0.0, 1.0).flip(0)
    colours: npt.NDArray[np.uint8] = colormaps["magma"](shown.numpy(), bytes=True)[..., :3]
    return colours
