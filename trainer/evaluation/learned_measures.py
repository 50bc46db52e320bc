"""Metrics computed by third-party networks: naturalness, speaker similarity and word error rate.

Each needs packages that ship its weights; nothing is downloaded. The two first are computed from
the weights alone, as what comes along with them takes longer to import than all else here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import nn

from snac_core.quality import mel_filterbank
from snac_core.types import Samples

RATE = 16_000
"""Hz of what all of them hear."""

DNSMOS_SECONDS = 9.01
DNSMOS_CURVE = (-0.06766283, 1.11546468, 0.04602535)
"""From the network's overall score to the scale of the listening tests it was fitted to."""

SPEAKER_FRAMES, SPEAKER_HOP, SPEAKER_FFT, SPEAKER_MELS = 160, 160, 400, 40
SPEAKER_STEP = 77
"""Frames between two stretches that are embedded."""
SPEAKER_LEVEL_DB = -30.0
"""What is quieter is raised to this RMS."""

_Audio = npt.NDArray[np.float32]


def dnsmos(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Return the overall score of DNSMOS P.835 (arXiv:2110.01763), about 1 to 5.

    It hears the estimate alone. The mean over stretches of 9 s, a second apart; what is shorter
    is repeated. Needs the packages ``onnxruntime`` and ``speechmos``.

    Returns
    -------
    float
        NaN for no samples.
    """
    if not len(estimate):
        return math.nan
    audio, length = _at_rate(estimate, sample_rate), int(DNSMOS_SECONDS * RATE)
    audio = np.tile(audio, -(-length // len(audio))) if len(audio) < length else audio
    session = _dnsmos()
    firsts = range(0, len(audio) - length + 1, RATE)
    parts = (audio[None, first : first + length] for first in firsts)
    # Signal, background, overall.
    scores = [session.run(None, {"input_1": part})[0][0][2] for part in parts]
    return float(np.polyval(DNSMOS_CURVE, scores).mean())


@functools.cache
def _dnsmos() -> Any:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = _file_of("speechmos", "dnsmos_models/sig_bak_ovr.onnx")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class SpeakerEncoder(nn.Module):
    """Embeds speech so that one speaker's recordings lie close (arXiv:1710.10467).

    The weights are those of the package ``resemblyzer``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SPEAKER_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        filters = mel_filterbank(RATE, SPEAKER_FFT, SPEAKER_MELS)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the embedding, Tensor[256] of length 1, of ``audio``, Tensor[T] at 16 kHz."""
        level = audio.square().mean().sqrt().clamp(min=1e-8)
        audio = audio * (10 ** (SPEAKER_LEVEL_DB / 20) / level).clamp(min=1.0)
        audio = nn.functional.pad(audio, (0, max(0, SPEAKER_FRAMES * SPEAKER_HOP - len(audio))))
        spectrum = torch.stft(
            audio,
            SPEAKER_FFT,
            SPEAKER_HOP,
            window=torch.hann_window(SPEAKER_FFT),
            pad_mode="constant",
            return_complex=True,
        )
        mels = (self.get_buffer("filters") @ spectrum.abs().square()).T
        parts = mels.unfold(0, SPEAKER_FRAMES, SPEAKER_STEP).transpose(1, 2)
        _, (hidden, _) = self.lstm(parts)
        embedded = nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)
        return nn.functional.normalize(embedded.mean(dim=0), dim=0)


def speaker_similarity(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Return the cosine of both signals' speaker embeddings; 1 for the same voice.

    Needs the package ``resemblyzer``.

    Returns
    -------
    float
        NaN for silence.
    """
    if not (reference.any() and estimate.any()):
        return math.nan
    with torch.inference_mode():
        pair = [
            _speaker_encoder()(torch.from_numpy(_at_rate(samples, sample_rate)))
            for samples in (reference, estimate)
        ]
    return float(pair[0] @ pair[1])


@functools.cache
def _speaker_encoder() -> SpeakerEncoder:
    encoder = SpeakerEncoder()
    found = torch.load(_file_of("resemblyzer", "pretrained.pt"), "cpu", weights_only=True)
    names = encoder.state_dict().keys()
    encoder.load_state_dict({name: found["model_state"][name] for name in names})
    return encoder.eval()


def word_error_rate(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Return how many words of the reference a recogniser of English no longer hears.

    Words that are replaced, left out or added, over those that it hears in the reference: no
    transcript is needed, and its own mistakes count where they change. Needs the packages
    ``pocketsphinx`` and ``jiwer``.

    Returns
    -------
    float
        NaN where it hears no word in the reference.
    """
    # In silence it hears what its language model expects.
    said = _words(_heard(reference, sample_rate)) if reference.any() else ""
    if not said:
        return math.nan
    jiwer: Any = importlib.import_module("jiwer")
    return float(jiwer.wer(said, _words(_heard(estimate, sample_rate))))


class _Heard:
    """16-bit samples that a cache tells apart by their digest."""

    def __init__(self, data: bytes) -> None:
        self.data, self._digest = data, hashlib.blake2b(data, digest_size=16).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Heard) and self._digest == other._digest


def _heard(samples: Samples, sample_rate: int) -> _Heard:
    audio = np.clip(_at_rate(samples, sample_rate), -1.0, 1.0)
    return _Heard((audio * 32767).astype("<i2").tobytes())


@functools.lru_cache(maxsize=4)  # Two models have one reference.
def _words(heard: _Heard) -> str:
    decoder = _recogniser()
    decoder.start_utt()
    decoder.process_raw(heard.data, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return "" if found is None else str(found.hypstr)


@functools.cache
def _recogniser() -> Any:
    pocketsphinx: Any = importlib.import_module("pocketsphinx")
    return pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")


def _at_rate(samples: Samples, sample_rate: int) -> _Audio:
    made: _Audio = soxr.resample(samples, sample_rate, RATE)
    return made


def _file_of(package: str, name: str) -> Path:
    """Return a file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(places[0]) / name
