"""What each term of the loss sees: its value for signals that differ from speech in one thing.

python bench/loss_terms.py --data DIR

Says why `l1` and `stft`, in linear amplitudes, hardly move where `mel` falls by a third: what a
codec gets right first is no part of them, and what rules them it does not get right.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import torch
from machine import describe

import snac_core
from snac_core import audio
from snac_core.model import Reconstruction
from snac_core.types import Samples
from trainer import config as configuration
from trainer.data.scan import audio_files
from trainer.losses.losses import Losses

SECONDS = 4.0
CONFIG = Path(__file__).parents[1] / "trainer" / "configs" / "new_dialect.json"


def other_phases(samples: Samples, rate: int) -> Samples:
    """Return a signal with about the same spectrogram, and phases that are drawn."""
    _, _, spectrum = scipy.signal.stft(samples, rate, nperseg=1024)
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, spectrum.shape)
    made = scipy.signal.istft(np.abs(spectrum) * np.exp(1j * angles), rate, nperseg=1024)[1]
    return np.asarray(made[: len(samples)], np.float32)


def low_passed(samples: Samples, rate: int) -> Samples:
    """Return what lies below 2 kHz."""
    filters = scipy.signal.butter(8, 2000, fs=rate, output="sos")
    return np.asarray(scipy.signal.sosfiltfilt(filters, samples), np.float32)


def without_quiet(samples: Samples, rate: int) -> Samples:
    """Return the signal without what is 30 dB below the loudest part of its spectrogram."""
    _, _, spectrum = scipy.signal.stft(samples, rate, nperseg=1024)
    spectrum[np.abs(spectrum) < np.abs(spectrum).max() * 10 ** (-30 / 20)] = 0
    made = scipy.signal.istft(spectrum, rate, nperseg=1024)[1]
    return np.asarray(made[: len(samples)], np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="recordings")
    parser.add_argument("--model", default="starter", help="whose reconstruction is one of them")
    parser.add_argument("--count", type=int, default=12, help="recordings, spread evenly")
    options = parser.parse_args()
    codec = snac_core.load(options.model, "cpu")
    rate = codec.sample_rate
    losses = Losses(configuration.load(CONFIG), rate)

    def coded(samples: Samples, rate: int) -> Samples:
        return codec.decode(codec.encode([samples]))[0]

    signals: dict[str, Callable[[Samples, int], Samples]] = {
        "silence": lambda samples, rate: np.zeros_like(samples),
        f"the reconstruction of {options.model}": coded,
        "the recording with drawn phases": other_phases,
        "the recording below 2 kHz": low_passed,
        "the recording without what is 30 dB below its loudest": without_quiet,
    }
    files = audio_files(options.data)
    files = [files[int((i + 0.5) * len(files) / options.count)] for i in range(options.count)]
    found = {name: np.zeros(3) for name in signals}
    for path in files:
        samples = audio.read(path, rate)[: round(SECONDS * rate)]
        reference = torch.from_numpy(samples)[None, None]
        for name, make in signals.items():
            made = torch.from_numpy(make(samples, rate)[: len(samples)])[None, None]
            made = torch.nn.functional.pad(made, (0, len(samples) - made.shape[-1]))
            terms = losses(Reconstruction(made, []), reference, torch.ones_like(reference))
            found[name] += [float(terms[term]) / len(files) for term in ("l1", "stft", "mel")]
    print(f"Machine: {describe()}; {len(files)} recordings, {SECONDS:g} s of each.\n")
    print("| heard in the place of the recording | l1 | stft | l1 + stft | 15 mel |")
    print("|---|---|---|---|---|")
    for name, (l1, stft, mel) in found.items():
        print(f"| {name} | {l1:.4f} | {stft:.3f} | {l1 + stft:.3f} | {15 * mel:.2f} |")


if __name__ == "__main__":
    main()
