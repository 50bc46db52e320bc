"""Every way to name a model, and loading it.

A reference is tried in this order:

1. A path that exists: a model store (its current version), one version's folder, a folder
   with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin`` as SNAC models are
   published, or a trainer's checkpoint file (``best_model.pt``).
2. ``starter``: the model that comes with this package.
3. ``owner/name`` or ``owner/name@revision``: a model on the Hugging Face Hub, through its
   client, so that ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what
   they always do, and what was downloaded once loads without the network.

So a folder called ``starter`` in the working directory goes before the model of that name.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.errors import ConfigError, ModelError, StoreError
from snac_core.model import SNAC
from snac_core.store import hub
from snac_core.store import manifest as manifests
from snac_core.store.golden import check_golden
from snac_core.store.hub import TORCH_WEIGHTS
from snac_core.store.identity import content_hash, token_space
from snac_core.store.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest
from snac_core.store.model_store import VERSION_ID, ModelStore
from snac_core.store.weights import (
    build,
    check_shapes,
    count_weights,
    parse_safetensors,
    read_safetensors,
    read_torch,
)
from snac_core.types import Compile, Precision
from snac_core.utils.atomic_files import read_regular

STARTER = "starter"

_MAX_CONFIG_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20
_MAX_WEIGHT_BYTES = 8
"""A float64: weights take no more than that each, and a safetensors header."""
# A name ending in .pt is a mistyped path: no use in asking the hub for that.
_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/(?P<name>\w[\w.-]*(?<!\.pt)))(@(?P<revision>[\w./-]+))?")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as it was found: what it is, and its weights.

    Parameters
    ----------
    config, weights
        The model, as stored.
    version
        Its id in a model store, or ``<name>-<hash of its contents>`` elsewhere.
    token_space
        See `snac_core.identity.token_space`.
    manifest
        What was published with it; None for a model from elsewhere.
    """

    config: SnacConfig
    weights: Mapping[str, Tensor]
    version: str
    token_space: str
    manifest: Manifest | None = None


def load(
    ref: str | Path,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    compile: Compile = "auto",
) -> Codec:
    """Find, check and load the model that ``ref`` names.

    Parameters
    ----------
    ref
        A path, ``"starter"``, or a Hugging Face id; see the head of this module. Weights may
        be in either form of weight norm and in half precision.
    device
        Such as ``"cpu"`` or ``"cuda:1"``; None means a GPU if there is one.
    precision
        Of decoding, ``"fp32"`` or ``"bf16"``; None means fp32. Encoding is always fp32.
    compile
        Whether a CPU uses the compiled kernels: ``"auto"``, ``"on"`` or ``"off"``; see `Codec`.
        Building them takes some seconds, once on a machine.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read, or is not whole, or is not a SNAC
        model, or does not give its golden clip the published codes on this device.
    ConfigError
        If its configuration cannot be built.
    """
    return codec_of(read(ref), device, precision, compile)


def codec_of(
    checkpoint: Checkpoint,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    compile: Compile = "auto",
) -> Codec:
    """Build and check the codec of a model that was read already; options as `load` takes them.

    Raises
    ------
    ModelError
        If it does not give its golden clip the published codes on this device.
    """
    codec = Codec(
        build(checkpoint.config, checkpoint.weights),
        version=checkpoint.version,
        token_space=checkpoint.token_space,
        device=_device(device),
        precision=precision or "fp32",
        compile=compile,
    )
    if checkpoint.manifest is not None:
        check_golden(codec, checkpoint.manifest.golden)
    return codec


def load_model(ref: str | Path) -> SNAC:
    """Load the network that ``ref`` names: on the CPU, float32, weight norm in place."""
    checkpoint = read(ref)
    return build(checkpoint.config, checkpoint.weights)


def read(ref: str | Path) -> Checkpoint:
    """Find the model that ``ref`` names and read it, without building it.

    Raises
    ------
    ModelError
        As `load`. For a reference that names nothing, lists what was tried.
    """
    path = Path(ref)
    tried = [f"{path.absolute()} does not exist"]
    if path.is_dir():
        return _read_folder(path)
    if path.exists():
        return _read_trainer_checkpoint(path)
    if ref == STARTER:
        starter = Path(__file__).parents[1] / STARTER
        if starter.is_dir():
            return _read_folder(starter)
        tried.append("this installation has no starter model")
    elif isinstance(ref, str) and (match := _HUB_ID.fullmatch(ref)):
        try:
            config, weights = hub.files_of(match["repo"], match["revision"])
            return _read_published(config, weights, match["name"])
        except hub.NotOnHubError as error:
            tried.append(str(error))
    else:
        tried.append("it is neither 'starter' nor a Hugging Face id such as 'owner/name'")
    raise ModelError(f"no model {str(ref)!r}: {'; '.join(tried)}")


def _read_folder(folder: Path) -> Checkpoint:
    if ModelStore.is_store(folder):
        store = ModelStore(folder)
        version = store.current()
        if version is None:
            raise StoreError(f"the model store {folder} has no current version")
        folder = store.path(version)
    # What is called a version must be whole, even if it is its manifest that is missing.
    if VERSION_ID.fullmatch(folder.name) or (folder / MANIFEST).exists():
        return _read_version(folder)
    files = [folder / name for name in (WEIGHTS, TORCH_WEIGHTS) if (folder / name).exists()]
    if not files or not (folder / CONFIG).exists():
        raise ModelError(
            f"the folder {folder} is neither a model store nor a model: it needs {CONFIG} "
            f"and {WEIGHTS} or {TORCH_WEIGHTS}"
        )
    return _read_published(folder / CONFIG, files[0], folder.resolve().name)


def _read_version(folder: Path) -> Checkpoint:
    """Read a published version, whole and as it was published.

    The manifest is believed about files, and not about the token space, which follows from the
    weights.
    """
    manifest = manifests.verify(folder)
    data = manifests.read_verified(folder, manifest, CONFIG, _MAX_CONFIG_BYTES)
    config = _parse_config(data, folder / CONFIG)
    most = _MAX_HEADER_BYTES + _MAX_WEIGHT_BYTES * count_weights(config)
    data = manifests.read_verified(folder, manifest, WEIGHTS, most)
    weights = parse_safetensors(data, folder / WEIGHTS)
    check_shapes(config, weights)
    space = token_space(config, weights)
    if space != manifest.token_space:
        raise StoreError(
            f"{folder / MANIFEST} says token space {manifest.token_space!r}, and the weights give "
            f"{space!r}"
        )
    return Checkpoint(config, weights, manifest.version, space, manifest)


def _read_published(config_path: Path, weights_path: Path, name: str) -> Checkpoint:
    """Read a model in the format that SNAC models are published in."""
    config = _read_config(config_path)
    if weights_path.name == WEIGHTS:
        return _named(name, config, read_safetensors(weights_path))
    weights = read_torch(weights_path)
    if not isinstance(weights, Mapping):
        raise ModelError(f"{weights_path} holds a {type(weights).__name__}, not a state dict")
    return _named(name, config, weights)


def _read_trainer_checkpoint(path: Path) -> Checkpoint:
    content = read_torch(path)
    keys = list(content) if isinstance(content, Mapping) else []
    if not all(isinstance(content[key], Mapping) for key in ("config", "model") if key in keys):
        keys = []
    if not {"config", "model"} <= set(keys):
        raise ModelError(
            f"{path} is not a trainer checkpoint: it needs a 'config' and a 'model', each a "
            f"mapping, and holds {keys[:6] if keys else type(content).__name__}"
        )
    try:
        config = SnacConfig.from_dict(content["config"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return _named(path.stem, config, content["model"])


def _read_config(path: Path) -> SnacConfig:
    try:
        data = read_regular(path, _MAX_CONFIG_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    return _parse_config(data, path)


def _parse_config(data: bytes, path: Path) -> SnacConfig:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    try:
        return SnacConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _named(name: str, config: SnacConfig, weights: Mapping[str, Tensor]) -> Checkpoint:
    check_shapes(config, weights)
    version = f"{name}-{content_hash(config, weights)}"
    return Checkpoint(config, weights, version, token_space(config, weights))


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"no device is called {device!r}; try 'cpu' or 'cuda'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"there is no device {device!r} here: {torch.cuda.device_count()} CUDA devices"
        )
    return chosen
