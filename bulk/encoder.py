"""Batches of audio into codes: what an actor does with its codec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bulk.batches import Batch, Encoded, Fault, Piece, PieceCodes
from snac_core.errors import AudioError
from snac_core.inference.jobs import EncodeJob
from snac_core.store.checkpoint import Checkpoint, codec_of
from snac_core.types import Samples


class Encoder:
    """A codec that encodes batches.

    Parameters
    ----------
    checkpoint
        The model.
    device
        Torch device.
    threads
        Of a CPU's codec.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, threads: int = 1) -> None:
        if torch.device(device).type == "cpu":
            torch.set_num_threads(threads)
        self.codec = codec_of(checkpoint, device=device)

    def encode(self, batch: Batch) -> Encoded:
        """Return the codes of a batch; a piece that cannot be encoded is a fault of its clip."""
        ends = np.cumsum([piece.samples for piece in batch.pieces])
        work = [
            (piece, batch.audio[end - piece.samples : end])
            for piece, end in zip(batch.pieces, ends, strict=True)
        ]
        codes, faults = self._encode(work)
        return Encoded(tuple(codes), batch.lengths, (*batch.faults, *faults))

    def _encode(
        self, work: Sequence[tuple[Piece, Samples]]
    ) -> tuple[list[PieceCodes], list[Fault]]:
        try:
            jobs = [self._job(piece, audio) for piece, audio in work]
            self.codec.run_all([step for job in jobs for step in job.steps])
            pieces = zip(work, jobs, strict=True)
            return [(piece.clip, self._codes(piece, job)) for (piece, _), job in pieces], []
        except (AudioError, torch.OutOfMemoryError) as error:
            if len(work) == 1:
                return [], [Fault(work[0][0].clip, str(error))]
        # Halves: less memory at once, and in the end a bad clip fails alone.
        middle = len(work) // 2
        first, last = self._encode(work[:middle]), self._encode(work[middle:])
        return first[0] + last[0], first[1] + last[1]

    def _job(self, piece: Piece, audio: Samples) -> EncodeJob:
        if piece.windows is None:
            return self.codec.encode_job(audio)
        # The context's codes are computed with the rest, and left out by `_codes`.
        windows = list(piece.windows)
        windows[0] = windows[0]._replace(core_start=windows[0].start)
        windows[-1] = windows[-1]._replace(core_stop=windows[-1].stop)
        return EncodeJob(audio, windows, self.codec.model)

    def _codes(self, piece: Piece, job: EncodeJob) -> tuple[npt.NDArray[np.int32], ...]:
        levels = job.result().levels
        if piece.windows is None:
            return levels
        first, last = piece.windows[0].core_start, piece.windows[-1].core_stop
        config = self.codec.config
        strides = [config.hop * stride for stride in config.vq_strides]
        return tuple(
            level[first // stride : last // stride]
            for level, stride in zip(levels, strides, strict=True)
        )
