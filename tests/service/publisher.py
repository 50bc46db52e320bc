"""Publish version after version to a model store, and print each.

    python -m tests.service.publisher STORE WEIGHTS MOST LIMIT

LIMIT bounds the bytes of its files; 0 for none. Exits with 3 when the store refuses.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import safetensors.torch

from snac_core.config import SnacConfig
from snac_core.errors import StoreError
from snac_core.store import ModelStore


def main(root: str, weights: str, most: str, limit: str) -> int:
    config = SnacConfig(encoder_dim=8, decoder_dim=32)
    tensors = safetensors.torch.load_file(weights)
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    for turn in range(int(most)):
        changed = {
            name: weight * (1 + 0.01 * turn) if name.startswith("decoder.") else weight
            for name, weight in tensors.items()
        }
        try:
            sys.stdout.write(f"{ModelStore(Path(root)).publish(config, changed)}\n")
            sys.stdout.flush()
        except StoreError as error:
            sys.stdout.write(f"refused {error}\n")
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
