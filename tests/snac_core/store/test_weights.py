from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from snac_core.errors import ModelError
from snac_core.store.weights import build, canonical, read_safetensors, read_torch
from tests.support.models import TINY_8KHZ as TINY
from tests.support.models import random_weights

CODEBOOK = "quantizer.quantizers.0.codebook.weight"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights(TINY)


def test_built_model_has_exactly_these_weights(weights: dict[str, Tensor]) -> None:
    model = build(TINY, weights)
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    stored = {key: value.to(dtype) for key, value in weights.items()}
    for key, value in build(TINY, stored).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[key].float())


def test_older_weight_norm_is_the_same_model(weights: dict[str, Tensor]) -> None:
    # What the hook of older torch stores, written by that hook itself.
    with pytest.warns(FutureWarning, match="weight_norm"):
        convolution = torch.nn.utils.weight_norm(torch.nn.Conv1d(16, 4, 1))
    prefix = "quantizer.quantizers.0.in_proj."
    older = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    older |= {prefix + key: value for key, value in convolution.state_dict().items()}
    assert prefix + "weight_g" in older
    assert set(canonical(older)) == set(weights)
    built = build(TINY, older).quantizer.quantizers[0].in_proj
    torch.testing.assert_close(built.weight, convolution.weight)  # type: ignore[union-attr]


def test_every_misfit_is_listed(weights: dict[str, Tensor]) -> None:
    bad: dict[str, Tensor] = dict(weights)
    del bad["decoder.model.0.bias"]
    bad["discriminator.weight"] = torch.zeros(1)
    bad[CODEBOOK] = torch.zeros(32, 4)
    bad["encoder.block.0.bias"] = torch.tensor([0.0, math.nan, 0.0, 0.0])
    with pytest.raises(ModelError) as raised:
        build(TINY, bad)
    assert str(raised.value) == (
        "weights that the configuration does not fit: 1 missing (decoder.model.0.bias); "
        "1 unexpected (discriminator.weight); "
        f"1 of another shape ({CODEBOOK} [32, 4], where the configuration needs [64, 4]); "
        "1 not finite (encoder.block.0.bias)"
    )


def test_a_long_list_of_misfits_is_cut() -> None:
    with pytest.raises(ModelError, match=r"missing \((\S+ ){5}and \d+ more\)$"):
        build(TINY, {})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite_are_refused(weights: dict[str, Tensor], value: float) -> None:
    bad = weights[CODEBOOK].clone()
    bad[-1, -1] = value
    with pytest.raises(ModelError, match=f"1 not finite \\({re.escape(CODEBOOK)}\\)"):
        build(TINY, {**weights, CODEBOOK: bad})


def test_a_value_that_overflows_half_precision_is_refused(weights: dict[str, Tensor]) -> None:
    large = {**weights, CODEBOOK: torch.full((64, 4), 1e5).half()}
    with pytest.raises(ModelError, match="not finite"):
        build(TINY, large)


@pytest.mark.parametrize("value", [torch.zeros(64, 4, dtype=torch.int64), [0.0], None])
def test_what_is_no_floating_point_tensor_is_refused(
    weights: dict[str, Tensor], value: Any
) -> None:
    with pytest.raises(ModelError, match=re.escape(CODEBOOK)):
        build(TINY, {**weights, CODEBOOK: value})


def test_files_that_are_not_weights_are_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "weights"
    safetensors.torch.save_file(weights, path)
    tensors = path.read_bytes()
    torch.save(weights, path)
    pickled = path.read_bytes()
    assert set(read_torch(path)) == set(weights)

    for content in (b"", b"weights", pickled, tensors[:-1], tensors[: len(tensors) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"{re.escape(str(path))} cannot be read"):
            read_safetensors(path)
    for content in (b"", b"weights", tensors, pickled[:-100], pickled[: len(pickled) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"{re.escape(str(path))} (cannot be read|is no file)"):
            read_torch(path)
    for reader in (read_safetensors, read_torch):
        with pytest.raises(ModelError, match="nowhere cannot be read"):
            reader(tmp_path / "nowhere")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, "evil.pt")
    with pytest.raises(ModelError, match=r"evil\.pt may hold tensors"):
        read_torch(Path("evil.pt"))
    assert not Path("ran").exists()
