"""The network against the public `snac` package: same weights in, same codes and audio out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import snac
import torch

import snac_core
from snac_core.codec import Codec
from snac_core.config import PRESETS

LENGTHS = (1, 700, 2048, 2049, 24000, 64813)

PARAMETERS = {"snac_24khz": 19_842_914, "snac_32khz": 54_546_338, "snac_44khz": 54_546_338}


@pytest.fixture(scope="module", params=list(PARAMETERS))
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[snac.SNAC, Codec]:
    """The upstream model and our codec, loaded from the checkpoint upstream wrote."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    values = PRESETS[request.param].to_dict()
    torch.manual_seed(0)
    theirs = snac.SNAC(**values).eval()
    (folder / "config.json").write_text(json.dumps(values))
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    ours = snac_core.load(folder, device="cpu")
    assert sum(p.numel() for p in theirs.parameters()) == PARAMETERS[request.param]
    for file in folder.iterdir():
        file.unlink()
    return theirs, ours


def _wave(length: int) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)


@torch.inference_mode()
def test_codes_and_audio_are_those_of_upstream(
    both: tuple[snac.SNAC, Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both
    # Upstream draws noise from the global generator and cannot leave it out.
    noise_block = next(m for m in theirs.modules() if type(m).__name__ == "NoiseBlock")
    monkeypatch.setattr(type(noise_block), "forward", lambda self, x: x)
    for length in LENGTHS:
        wave = _wave(length)
        expected = theirs.encode(torch.from_numpy(wave)[None, None])
        (codes,) = ours.encode([wave])
        for level, theirs_level in zip(codes.levels, expected, strict=True):
            np.testing.assert_array_equal(level, theirs_level[0].numpy())
        (audio,) = ours.decode([codes], noise="off")
        assert audio.shape == (length,)
        expected_audio = theirs.decode(expected)[0, 0, :length].numpy()
        assert np.abs(audio - expected_audio).max() <= 1e-5
