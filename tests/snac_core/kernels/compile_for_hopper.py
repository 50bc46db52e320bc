"""Compile for Hopper what encoding and decoding launch, without a GPU: takes an empty folder.

Prints one JSON list for each launch: the kernel's name, whether it uses no stack memory, and
whether it multiplies on tensor cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from snac_core.config import SnacConfig
from snac_core.kernels.gpu import TritonBackend
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise


class Hopper:
    """A driver of a GPU that is not there."""

    @staticmethod
    def get_current_target() -> GPUTarget:
        """Return what kernels are compiled for."""
        return GPUTarget("cuda", 90, 32)

    @staticmethod
    def get_current_device() -> int:
        """Return the only device."""
        return 0

    @staticmethod
    def get_current_stream(device: int) -> int:
        """Return the default stream."""
        return 0


def encode_and_decode() -> None:
    """Launch all kernels of an encode in float32 and of a decode in bfloat16."""
    config = SnacConfig(encoder_dim=48, encoder_rates=(2,), decoder_dim=128, decoder_rates=(2,))
    model, cpu = SNAC(config).eval().fold(), torch.device("cpu")
    noise = Noise(torch.tensor([1, 2]), torch.tensor([0, 16]))
    context = BatchContext(32, torch.tensor([32, 16]), noise)
    codes = [torch.zeros(2, 16 // stride, dtype=torch.int64) for stride in config.vq_strides]
    encoder = ChannelsLastNetwork(model, TritonBackend(cpu), lambda: None)
    decoder = ChannelsLastNetwork(model, TritonBackend(cpu, 64), lambda: None, torch.bfloat16)
    with torch.inference_mode():
        encoder.encode(torch.zeros(2, 1, 32), context)
        decoder.decode(codes, context)


def main(folder: Path) -> None:
    """Compile each kernel in place of launching it, and report on it."""
    launch, launches = JITFunction.run, []

    def compiled(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made = launch(self, *arguments, grid=grid, warmup=True, **options)
        binary = folder / made.hash
        if not binary.exists():
            binary.write_bytes(made.asm["cubin"])
        launches.append((self.__name__, binary, "mma.sync" in made.asm["ptx"]))

    driver.set_active(Hopper())
    JITFunction.run = compiled
    encode_and_decode()
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for name, binary, on_tensor_cores in launches:
        command = [tool, "--dump-resource-usage", binary]
        used = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        sys.stdout.write(json.dumps([name, "STACK:0 " in used, on_tensor_cores]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
