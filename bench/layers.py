"""Where a CPU's time goes between the layers of the network, encoding and decoding.

    python bench/layers.py [--seconds 8] [--rounds 5] [--clock wall]

Counts, for each kind of layer, its share of the time from the first layer to the last and the
quantizer's. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import statistics

import torch
from machine import describe
from measuring import CLOCKS, clips, codec, padded, upstream

from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model.batch_context import BatchContext
from snac_core.model.noise import Noise

KINDS = {
    "Unit": "residual units: snake, 7 taps, snake, product",
    "Downsampling": "changes of rate: snake, two products",
    "Upsampling": "changes of rate: snake, two products",
    "FromOneChannel": "first and last convolution",
    "ToOneChannel": "first and last convolution",
    "Noisy": "noise",
}
REST = "quantizer, and the rest"

Shares = tuple[dict[str, float], float]


class Laps:
    """What a clock showed before each layer."""

    def __init__(self, clock: str) -> None:
        self._read = CLOCKS[clock]
        self.times: list[float] = []

    def __call__(self) -> None:
        """Note the time."""
        self.times.append(self._read())


def shares(
    network: ChannelsLastNetwork, kind: str, seconds: float, rounds: int, clock: str
) -> Shares:
    """Return the share of each kind of layer, and ms for each second of audio in all."""
    layers = network.layers[kind]
    (wave,) = clips(1, seconds, seconds)
    audio = padded(wave)
    codes = network.encode(audio)
    noisy = BatchContext(audio.shape[-1], None, Noise(torch.tensor([0]), torch.tensor([0])))
    spent: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(rounds + 1):
        network.on_layer = laps = Laps(clock)
        laps()
        _ = network.encode(audio) if kind == "encode" else network.decode(codes, noisy)
        laps()
        # Decoding begins with the quantizer, and encoding ends with it.
        names = [type(layer).__name__ for layer in layers]
        names.insert(0, "")
        own: dict[str, float] = collections.defaultdict(float)
        for name, (start, stop) in zip(names, itertools.pairwise(laps.times), strict=True):
            own[KINDS.get(name, REST)] += stop - start
        if turn:
            for name in (*KINDS.values(), REST):
                spent[name].append(own[name])
    medians = {name: statistics.median(values) for name, values in spent.items()}
    return medians, 1e3 * sum(medians.values()) / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = codec(upstream(), "on").encoder
    assert isinstance(network, ChannelsLastNetwork)
    with torch.inference_mode():
        made = {
            kind: shares(network, kind, options.seconds, options.rounds, options.clock)
            for kind in ("encode", "decode")
        }
    print(f"{describe()}; {options.threads} threads; clock: {options.clock} time\n")
    print(f"| a clip of {options.seconds:g} s | encode | decode |")
    print("|---|---|---|")
    for name in dict.fromkeys((*KINDS.values(), REST)):
        row = [spent[name] / sum(spent.values()) for spent, _ in made.values()]
        print(f"| {name} | " + " | ".join(f"{share:.1%}" for share in row) + " |")
    row = [total for _, total in made.values()]
    print("| ms for a second of audio | " + " | ".join(f"{total:.0f}" for total in row) + " |")


if __name__ == "__main__":
    main()
