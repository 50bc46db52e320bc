"""Recordings and their reconstructions, written down to be listened to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snac_core import audio
from snac_core.types import Samples
from trainer.evaluation.compared import ALONE, BASE, FINETUNED

FOLDER = "samples"
ORIGINAL = "original"


class KeptSamples:
    """Numbered WAV files ``samples/NNN_{original,base,finetuned}.wav``.

    Those of an evaluation before are removed.

    Parameters
    ----------
    output_dir
        Where the folder is made.
    sample_rate
        Hz.
    """

    def __init__(self, output_dir: Path, sample_rate: int) -> None:
        self.folder, self.sample_rate = output_dir / FOLDER, sample_rate
        self.kept: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (ORIGINAL, BASE, FINETUNED, ALONE):
            for old in self.folder.glob(f"[0-9][0-9][0-9]_{name}.wav"):
                old.unlink()

    def keep(
        self, path: Path, group: str, reference: Samples, made: Mapping[str, Samples]
    ) -> dict[str, Any]:
        """Write a recording, [T], and its reconstructions, and return what is noted of it."""
        number = f"{len(self.kept):03d}"
        files = {}
        for name, samples in {ORIGINAL: reference, **made}.items():
            files[name] = f"{FOLDER}/{number}_{name}.wav"
            audio.write(self.folder / f"{number}_{name}.wav", samples, self.sample_rate)
        self.kept.append({"number": number, "path": str(path), "group": group, "files": files})
        return self.kept[-1]
