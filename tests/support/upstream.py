"""Models of the package that SNAC was published with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from snac_core.config import SnacConfig
from snac_core.types import Samples
from tests.support.models import TINY_8KHZ


def upstream_model(config: SnacConfig) -> Any:
    """Return a model of the package that SNAC was published with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script
        import snac
    torch.manual_seed(7)
    return snac.SNAC(**config.to_dict()).eval()


def write_upstream(folder: Path, config: SnacConfig = TINY_8KHZ) -> Any:
    """Write ``config.json`` and ``pytorch_model.bin`` as published models have them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = upstream_model(config)
    # Published configurations leave out what they do not set.
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def upstream_levels(model: Any, samples: Samples) -> list[list[int]]:
    """Return the codes that the published package makes, one list a level."""
    with torch.no_grad():
        return [level[0].tolist() for level in model.encode(torch.from_numpy(samples)[None, None])]
