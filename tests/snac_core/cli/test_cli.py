from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import soundfile

import snac_core
from snac_core import Codes
from snac_core.layouts import to_layout
from tests.snac_core.cli.conftest import TINY, Run, write_wav


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user does."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("snac-codec")), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


# As a user runs it


def test_a_recording_becomes_codes_and_audio_again(model: Path) -> None:
    write_wav(Path("voice.wav"), seconds=0.7, sample_rate=22050)
    ref = ("--model", str(model), "--device", "cpu")
    done = process("encode", "voice.wav", "--output", "codes.npz", *ref)
    assert (done.returncode, done.stderr) == (0, "")
    codes = Codes.from_npz(Path("codes.npz").read_bytes(), TINY)
    assert codes.num_samples == 11200
    tokens = sum(map(len, codes.levels))
    assert done.stdout == f"voice.wav -> codes.npz: 0.70 s, {tokens} tokens\n"

    done = process("decode", "codes.npz", "--output", "again.wav", *ref)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "codes.npz -> again.wav: 0.70 s\n"
    samples, rate = soundfile.read("again.wav", dtype="float32")
    (expected,) = snac_core.load(model, device="cpu").decode([codes])
    assert rate == 16000
    np.testing.assert_allclose(samples, expected, atol=1 / 32768)


def test_a_folder_is_searched_for_every_kind_of_recording(run: Run) -> None:
    Path("in").mkdir()
    for name, kind in (("a.aifc", "AIFF"), ("b.rf64", "RF64"), ("c.snd", "AU")):
        soundfile.write(Path("in", name), np.full(4000, 0.1), 16000, format=kind)
    assert run("encode", "in", "--output", "out")[0] == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.npz", "b.npz", "c.npz"]


def test_a_folder_shows_progress_reports_what_failed_and_does_the_rest(model: Path) -> None:
    for name in ("a.wav", "deep/b.WAV", "deep/er/c.flac"):
        write_wav(Path("in") / name)
    Path("in/broken.wav").write_bytes(b"RIFF")
    Path("in/notes.txt").write_text("not audio")
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snac_core.cli", "reconstruct", "--checkpoint", str(model)),
            *("--input", "in", "--output", "out", "--device", "cpu"),
        ],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(terminal)
    shown = os.read(screen, 65536).decode()
    os.close(screen)
    assert done.returncode == 1
    assert "4/4" in shown, "a progress bar on a terminal"
    errors = re.findall(r"snac-codec: error: [^\r\n]*", shown)
    assert errors[0].startswith("snac-codec: error: in/broken.wav: ")
    assert errors[1:] == ["snac-codec: error: 1 of 4 files failed"]
    assert "Traceback" not in shown
    written = sorted(str(path) for path in Path("out").rglob("*") if path.is_file())
    assert written == ["out/a.wav", "out/deep/b.wav", "out/deep/er/c.wav"]

    number = r"-?\d+\.\d+"
    figures = rf"log-mel {number}, SI-SDR {number} dB, STOI {number}"
    *lines, mean = done.stdout.splitlines()
    rate = TINY.bits_per_second / 1000
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(rf"in/(\S+)\.\w+ -> out/\1\.wav: {rate:.3f} kbps, {figures}", line)
    assert re.fullmatch(f"mean of 3 files: {figures}", mean)


def test_wrong_usage_ends_with_code_2() -> None:
    done = process("encode", "voice.wav")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: snac-codec encode" in done.stderr


def test_standard_input_and_output_are_inputs_and_outputs(model: Path) -> None:
    write_wav(Path("voice.wav"))
    ref = ("--model", str(model), "--device", "cpu")
    command = str(Path(sys.executable).with_name("snac-codec"))

    def pipe(data: bytes, *arguments: str) -> tuple[bytes, str]:
        done = subprocess.run(
            [command, *arguments, *ref], input=data, capture_output=True, timeout=120, check=True
        )
        return done.stdout, done.stderr.decode()

    made, said = pipe(Path("voice.wav").read_bytes(), "encode", "-")
    codes = Codes.from_json(made, TINY)
    assert said.startswith("- -> -: 0.70 s")
    npz, _ = pipe(made, "decode", "-", "-o", "-", "--format", "flac", "--noise", "off")
    assert soundfile.info(io.BytesIO(npz)).format == "FLAC"
    packed, _ = pipe(Path("voice.wav").read_bytes(), "encode", "-", "--format", "npz")
    assert Codes.from_npz(packed, TINY) == codes
    again, _ = pipe(packed, "decode", "-", "--noise", "off")
    assert np.array_equal(soundfile.read(io.BytesIO(again))[0], soundfile.read(io.BytesIO(npz))[0])


def test_every_command_says_its_version() -> None:
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"snac-codec {snac_core.__version__}\n"


# Encode and decode


def test_several_inputs_and_the_last_name_as_output(run: Run) -> None:
    for name in ("a", "b"):
        write_wav(Path(f"{name}.wav"), seconds=0.2)
    assert run("encode", "a.wav", "b.wav", "-o", "codes", "--format", "json")[0] == 0
    assert sorted(path.name for path in Path("codes").iterdir()) == ["a.json", "b.json"]
    assert run("reconstruct", "a.wav", "again.flac")[0] == 0
    assert soundfile.info("again.flac").frames == 3200
    before = Path("b.wav").read_bytes()
    code, _, err = run("reconstruct", "a.wav", "b.wav")
    assert code == 2
    assert "b.wav is there already" in err
    assert Path("b.wav").read_bytes() == before
    code, _, err = run("encode", "a.wav", "b.wav", "-o", "codes.npz")
    assert (code, "must be a folder: there are 2 inputs" in err) == (1, True)


def test_tokens_in_a_layout_are_printed_and_read_again(run: Run, model: Path) -> None:
    write_wav(Path("voice.wav"))
    run("encode", "voice.wav", "codes.npz")
    run("decode", "codes.npz", "plain.wav")
    code, out, _ = run("tokens", "voice.wav", "--layout", "flat")
    assert code == 0
    codes = Codes.from_npz(Path("codes.npz").read_bytes(), TINY)
    flat = to_layout(codes.levels, "flat", config=TINY)
    assert json.loads(out) == flat
    assert json.loads(run("tokens", "codes.npz", "--layout", "flat")[1]) == flat

    # As the service answers, and the tokens alone.
    answer = {"layout": "flat/1", "codes": flat, "num_samples": codes.num_samples}
    Path("answer.json").write_text(json.dumps(answer))
    Path("bare.json").write_text(out)
    assert run("decode", "answer.json", "answer.wav")[0] == 0
    assert Path("answer.wav").read_bytes() == Path("plain.wav").read_bytes()
    assert run("decode", "bare.json", "bare.wav", "--layout", "flat")[0] == 0
    assert soundfile.info("bare.wav").frames >= codes.num_samples
    for arguments, message in (
        (["answer.json", "--layout", "hierarchical"], "the file says layout flat/1"),
        (["bare.json"], "codes must be 2 lists|2 lists, one per level|level 0 must be|levels of"),
    ):
        code, _, err = run("decode", *arguments, "-o", "x.wav")
        assert code == 1
        assert re.search(message, err), err
    Path("other.json").write_text(json.dumps({**answer, "model": {"token_space": "other"}}))
    assert "are of token space other" in run("decode", "other.json", "x.wav")[2]


def test_files_that_are_skipped_are_named_and_strict_makes_them_an_error(run: Run) -> None:
    write_wav(Path("in/a.wav"), seconds=0.2)
    Path("in/notes.txt").write_text("not audio")
    code, _, err = run("encode", "in", "-o", "out")
    line = "skipped 1 file whose suffix .txt is not read: in/notes.txt"
    assert (code, err) == (0, f"snac-codec: warning: {line}\n")
    code, _, err = run("encode", "in", "-o", "out", "--strict")
    assert (code, err) == (1, f"snac-codec: error: {line}\n")


def test_channels_that_cancel_are_a_warning(run: Run) -> None:
    wave = 0.3 * np.sin(np.arange(8000) / 10)
    soundfile.write("stereo.wav", np.stack([wave, -wave], 1), 16000)
    code, _, err = run("encode", "stereo.wav", "x.npz")
    assert code == 0
    assert err.startswith("snac-codec: warning: stereo.wav: the average of the 2 channels")
    assert run("encode", "stereo.wav", "x.npz", "--channel", "0")[2] == ""


@pytest.mark.parametrize("suffix", ["npz", "json", "msgpack"])
def test_codes_go_through_every_format(run: Run, suffix: str) -> None:
    write_wav(Path("voice.wav"))
    assert run("encode", "voice.wav", "--output", f"codes.{suffix}")[0] == 0
    assert run("decode", f"codes.{suffix}", "--output", "again.flac")[0] == 0
    assert soundfile.info("again.flac").frames == 11200


def test_noise_is_seeded_or_off(run: Run) -> None:
    write_wav(Path("voice.wav"))
    run("encode", "voice.wav", "--output", "codes.npz")
    choices = {
        "first": ("--seed", "1"),
        "again": ("--seed", "1"),
        "second": ("--seed", "2"),
        "off": ("--noise", "off"),
    }
    audio = {}
    for name, options in choices.items():
        assert run("decode", "codes.npz", "--output", f"{name}.wav", *options)[0] == 0
        audio[name] = Path(f"{name}.wav").read_bytes()
    assert audio["first"] == audio["again"]
    assert len(set(audio.values())) == 3


def test_a_folder_of_codes_becomes_a_folder_of_audio(run: Run) -> None:
    write_wav(Path("in/x/a.wav"), seconds=0.2)
    write_wav(Path("in/b.wav"), seconds=0.3)
    assert run("encode", "in", "--output", "codes")[:1] == (0,)
    assert sorted(map(str, Path("codes").rglob("*.npz"))) == ["codes/b.npz", "codes/x/a.npz"]
    code, out, err = run("decode", "codes", "--output", "audio")
    assert (code, err) == (0, ""), "no progress bar where there is no terminal"
    assert out.splitlines() == [
        "codes/b.npz -> audio/b.wav: 0.30 s",
        "codes/x/a.npz -> audio/x/a.wav: 0.20 s",
    ]
    assert soundfile.info("audio/x/a.wav").frames == 3200


def test_a_file_goes_into_a_folder_under_its_own_name(run: Run) -> None:
    write_wav(Path("voice.wav"))
    Path("there").mkdir()
    assert run("encode", "voice.wav", "--output", "there")[0] == 0
    assert run("encode", "voice.wav", "--output", "new/")[0] == 0
    assert Path("there/voice.npz").read_bytes() == Path("new/voice.npz").read_bytes()


def test_results_inside_the_input_are_not_input_again(run: Run) -> None:
    write_wav(Path("voice.wav"))
    for output in ("out", str(Path("out").absolute())):
        code, out, _ = run("reconstruct", "--input", ".", "--output", output)
        assert (code, out.count("\n")) == (0, 1)


def test_file_names_need_not_be_utf8(run: Run) -> None:
    name = os.fsdecode(b"in/voi\xe7e.wav")
    write_wav(Path("in/voice.wav"))
    Path("in/voice.wav").rename(name)
    Path(os.fsdecode(b"in/caf\xe9.wav")).write_bytes(b"RIFF")
    code, out, err = run("encode", "in", "--output", "out")
    assert code == 1
    assert out.startswith(r"in/voi\udce7e.wav -> out/voi\udce7e.npz: 0.70 s")
    assert err.startswith(r"snac-codec: error: in/caf\udce9.wav: ")
    assert Path(os.fsdecode(b"out/voi\xe7e.npz")).exists()


# What goes wrong
