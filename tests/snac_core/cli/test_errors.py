from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import snac_core
from snac_core import SnacConfig
from snac_core.cli import main
from snac_core.model import SNAC
from snac_core.store import ModelStore
from tests.snac_core.cli.conftest import TINY, Run, write_wav


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "absent.wav", "--output", "x.npz"], "absent.wav does not exist"),
        (["encode", "text.wav", "--output", "x.npz"], "text.wav: .+"),
        (["encode", "empty", "--output", "x"], r"empty holds no files ending in \.wav, .*"),
        (["encode", "voices", "--output", "x.npz"], "x.npz must be a folder, as voices is one"),
        (["decode", "text.wav", "--output", "x.wav"], r"text.wav: not a codes file: .*\.npz, .*"),
        (["decode", "bad.json", "--output", "x.wav"], "bad.json: level 1, index 2: code 64 .*"),
        (["decode", "bad.npz", "--output", "x.wav"], "bad.npz: .+"),
        (["encode", "voices/a.wav", "--output", "file/x.npz"], "voices/a.wav: file: .+"),
        (["reconstruct", "--input", "voices/a.wav", "--output", "voices/a.wav"], ".*overwrite.*"),
        (["reconstruct", "--input", "voices", "--output", "voices"], ".*overwrite.*"),
    ],
)
def test_bad_input_is_one_line_and_code_1(run: Run, arguments: list[str], message: str) -> None:
    write_wav(Path("voices/a.wav"))
    Path("empty").mkdir()
    for name in ("text.wav", "bad.npz", "file"):
        Path(name).write_text("This is no such thing.")
    codes = {"codes": [[1, 2], [1, 2, 64, 3]], "num_samples": 100, "sample_rate": 16000}
    Path("bad.json").write_text(json.dumps(codes))
    before = Path("voices/a.wav").read_bytes()
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert re.fullmatch(f"snac-codec: error: {message}", err.splitlines()[0]), err
    assert Path("voices/a.wav").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "voice.wav", "--output", "codes.txt"],
        ["decode", "codes.npz", "--output", "voice.mp3"],
        ["decode", "codes.npz", "--output", "voice.wav", "--noise", "loud"],
        ["decode", "codes.npz", "--output", "voice.wav", "--seed", "one"],
        ["decode", "codes.npz", "--output", "voice.wav", "--seed", str(2**63)],
        ["reconstruct", "--output", "voice.wav"],
        ["transmogrify"],
    ],
)
def test_wrong_usage_is_code_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "usage: snac-codec" in err


def test_a_model_that_is_not_there_is_one_line_and_code_1(run: Run) -> None:
    write_wav(Path("voice.wav"))
    code, out, err = run("encode", "voice.wav", "--output", "codes.npz", ref="./nowhere")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"snac-codec: error: no model './nowhere': .*\n", err)


def test_two_inputs_of_one_name_do_not_overwrite_each_other(run: Run) -> None:
    write_wav(Path("in/a.flac"), seconds=0.2)
    write_wav(Path("in/a.wav"), seconds=0.3)
    code, out, err = run("encode", "in", "--output", "out")
    assert code == 1
    assert out.startswith("in/a.flac -> out/a.npz: 0.20 s")
    assert err.splitlines()[0] == (
        "snac-codec: error: in/a.wav: out/a.npz was already written, from in/a.flac"
    )


def test_a_device_that_is_not_there_is_code_1(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(Path("voice.wav"))
    arguments = ["encode", "voice.wav", "--output", "x.npz", "--model", str(model)]
    assert main([*arguments, "--device", "cuda:99"]) == 1
    assert capsys.readouterr().err.startswith("snac-codec: error: there is no device 'cuda:99'")


# Inspect


def test_inspect_says_what_a_model_is(run: Run, model: Path) -> None:
    code, out, err = run("inspect", str(model))
    assert (code, err) == (0, "")
    version = ModelStore(model).current()
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert rows["version"] == version
    assert rows["frame samples"] == "64"
    assert rows["frame ms"] == "4.0"
    assert rows["tokens per second"] == "750.0"
    assert rows["bits per second"] == "4500.0"
    assert json.loads(rows["metrics"]) == {"best": 0.25}

    code, out, err = run("inspect", str(model), "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["version"] == version
    assert facts["token_space"] == snac_core.load(model, device="cpu").token_space
    assert facts["parameters"] == sum(value.numel() for value in SNAC(TINY).parameters())
    assert facts["codes_per_frame"] == [1, 2]
    assert facts["parent"] == "nothing"
    assert SnacConfig.from_dict(facts["config"]) == TINY


def test_inspect_of_a_damaged_version_is_code_1(run: Run, model: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    store = ModelStore(tmp_path / "damaged")
    folder = store.path(store.publish(TINY, SNAC(TINY).state_dict()))
    (folder / "config.json").write_text("{}")
    code, out, err = run("inspect", str(store.root))
    assert (code, out) == (1, "")
    assert "config.json is not the file that was published" in err


def test_what_is_no_model_is_one_line(run: Run) -> None:
    write_wav(Path("voice.wav"))
    torch.save({"config": {}, "model": Fraction(1, 2)}, "object.pt")
    for name, message in (
        ("voice.wav", "voice.wav is no file that torch.save wrote"),
        ("object.pt", "may hold tensors and plain containers only, and holds a fractions.Fraction"),
        (".", "is neither a model store nor a model"),
    ):
        code, out, err = run("inspect", name)
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert message in line
