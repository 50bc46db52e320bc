"""Encode and decode with ONNX Runtime and numpy alone: no torch, none of this repository.

snac-codec export starter --format onnx exported
python examples/onnx/onnx_codec.py exported examples/voice.wav back.wav
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import soundfile


class OnnxCodec:
    """The two graphs in a folder that ``snac-codec export --format onnx`` wrote.

    Parameters
    ----------
    folder
        With ``encoder.onnx`` and ``decoder.onnx``.
    """

    def __init__(self, folder: Path) -> None:
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
            )
            for name in ("encoder", "decoder")
        )
        metadata = self.encoder.get_modelmeta().custom_metadata_map
        self.config: dict[str, Any] = json.loads(metadata["config"])
        self.sample_rate = int(metadata["sampling_rate"])
        self.token_space = metadata["token_space"]

    def encode(self, samples: npt.NDArray[np.float32]) -> list[npt.NDArray[np.int64]]:
        """Return the codes of one clip, float32 [T] at `sample_rate`: an array for each level."""
        return [level[0] for level in self.encoder.run(None, {"audio": samples[None, None]})]

    def decode(
        self, levels: list[npt.NDArray[np.int64]], seed: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the audio of whole frames, float32 [T]; without a seed, without noise."""
        inputs = {f"codes_{level}": values[None] for level, values in enumerate(levels)}
        positions = len(levels[0]) * self.config["vq_strides"][0]
        random = np.random.default_rng(seed)
        for block, rate in enumerate(self.config["decoder_rates"]):
            positions *= rate
            shape = (1, 1, positions)
            draw = np.zeros(shape) if seed is None else random.standard_normal(shape)
            inputs[f"noise_{block}"] = draw.astype(np.float32)
        if not self.config["noise"]:
            inputs = {name: value for name, value in inputs.items() if name.startswith("codes")}
        audio: npt.NDArray[np.float32] = self.decoder.run(None, inputs)[0][0, 0]
        return audio


def main() -> None:
    """Encode a recording, print how many codes there are, and decode them."""
    parser = argparse.ArgumentParser(description="Reconstruct a recording with ONNX Runtime.")
    parser.add_argument("folder", type=Path, help="what snac-codec export wrote")
    parser.add_argument("recording", type=Path, help="at the model's sample rate")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    codec = OnnxCodec(arguments.folder)
    samples, rate = soundfile.read(arguments.recording, dtype="float32", always_2d=True)
    if rate != codec.sample_rate:
        raise SystemExit(
            f"{arguments.recording} has {rate} Hz; the model wants {codec.sample_rate}"
        )
    levels = codec.encode(samples.mean(axis=1))
    print(f"{[len(level) for level in levels]} codes of token space {codec.token_space}")
    # Codes hold whole frames: the length is the recording's own.
    soundfile.write(arguments.output, codec.decode(levels)[: len(samples)], rate)


if __name__ == "__main__":
    main()
