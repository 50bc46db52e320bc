"""What the starter model's card says beside its quality: speed, codebook use, silence.

python bench/starter.py --data DIR [--model starter] [--seconds 3600] [--rounds 5]

Speed is against the shape of `snac_24khz` with random weights, by the same codec and by the
published package, in turns. Codebook use is the share of each level's entries that the speech in
DIR uses. Silence is what the model decodes from the tokens of digital silence.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from machine import describe
from measuring import clips, codec, faster, in_turns, padded, table, upstream

import snac_core
from snac_core import audio
from snac_core.codec import Codec
from trainer.data.scan import audio_files

SPEEDUP = 3.0
"""Wanted over the shape of `snac_24khz`."""


def speed(model: Codec, rounds: int) -> str:
    """Return a table of encode and decode of 8 s."""
    plain = upstream()
    shape = codec(plain)
    (wave,) = clips(1, 8.0, 8.0)
    tensor, codes = padded(wave), model.encode([wave])
    others = shape.encode([wave])
    with torch.inference_mode():
        levels = plain.encode(tensor)
        encode = in_turns(
            {
                "ours": lambda: model.encode([wave]),
                "its shape": lambda: shape.encode([wave]),
                "published package": lambda: plain.encode(tensor),
            },
            rounds,
        )
        decode = in_turns(
            {
                "ours": lambda: model.decode(codes),
                "its shape": lambda: shape.decode(others),
                "published package": lambda: plain.decode(levels),
            },
            rounds,
        )
    return table(
        [
            faster(f"{what} 8 s", peer, seconds, 8.0, SPEEDUP)
            for what, seconds in (("encode", encode), ("decode", decode))
            for peer in ("its shape", "published package")
        ]
    )


def codebook_use(model: Codec, data: Path, seconds: float) -> tuple[float, list[float]]:
    """Return how much speech was heard, in seconds, and the share of each level's entries used."""
    used = [np.zeros(model.config.codebook_size, bool) for _ in model.config.vq_strides]
    heard = 0.0
    # Spread over the folder: it may be in order of speakers.
    files = sorted(audio_files(data))
    np.random.default_rng(0).shuffle(files)
    for path in files:
        wave = audio.read(path, model.config.sampling_rate)
        for own, level in zip(used, model.encode([wave])[0].levels, strict=True):
            own[np.asarray(level)] = True
        heard += len(wave) / model.config.sampling_rate
        if heard >= seconds:
            break
    return heard, [float(own.mean()) for own in used]


def silence(model: Codec, seconds: float = 4.0) -> tuple[float, float]:
    """Return the RMS and the peak of what is decoded from digital silence, in dB of full scale."""
    samples = np.zeros(round(seconds * model.config.sampling_rate), np.float32)
    (made,) = model.decode(model.encode([samples]))
    tiny = 1e-10
    rms = float(np.sqrt(np.square(made, dtype=np.float64).mean()))
    return 20 * float(np.log10(rms + tiny)), 20 * float(np.log10(np.abs(made).max() + tiny))


def main() -> int:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="speech, searched in depth")
    parser.add_argument("--model", default="starter", help="any reference to a model")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of speech, at least")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = snac_core.load(options.model)

    print(f"Machine: {describe()}. Model {model.version}.\n")
    print(speed(model, options.rounds))
    heard, shares = codebook_use(model, options.data, options.seconds)
    levels = ", ".join(f"{share:.1%}" for share in shares)
    print(f"\nCodebook use over {heard:.0f} s of speech, coarsest level first: {levels}.")
    rms, peak = silence(model)
    print(f"Digital silence is decoded at {rms:.1f} dBFS RMS, peak {peak:.1f} dBFS.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
