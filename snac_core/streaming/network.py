"""The streaming layers, and the state pool, that the streams of one codec share."""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from snac_core.config import SnacConfig
from snac_core.inference.networks import Networks
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.model.attention import HEAD_DIM
from snac_core.model.noise import Noise
from snac_core.streaming.channels_last import ChannelsLastStreaming
from snac_core.streaming.layers import StreamingNetwork
from snac_core.streaming.state import StatePool, StreamContext

Direction: TypeAlias = Literal["encode", "decode"]


@functools.lru_cache(maxsize=16)
def lookahead(config: SnacConfig, direction: Direction = "decode") -> int:
    """Return by how many samples the result of a stream lies behind its input.

    Derived from the layers. A sample of audio leaves once the codes reach this much further
    than it; so does a code once the audio does, and codes leave in whole coarse frames.
    """
    # How wide the layers are makes no difference, so they are as narrow as attention may be.
    encoder_dim = max(1, HEAD_DIM // 2 ** len(config.encoder_rates))
    decoder_dim = max(HEAD_DIM, 2 ** len(config.decoder_rates))
    narrow = dataclasses.replace(
        config, encoder_dim=encoder_dim, decoder_dim=decoder_dim, latent_dim=None
    )
    with torch.random.fork_rng(devices=[]):
        model = SNAC(narrow)
    return _streaming(model, direction).delay


def _streaming(model: SNAC, direction: Direction) -> StreamingNetwork:
    config = model.config
    if direction == "decode":
        return StreamingNetwork(model.decoder.model, config.latent_channels, config.hop)
    return StreamingNetwork(model.encoder.block, 1, 1, align=config.frame_latents)


class StreamNetwork:
    """An encoder or decoder as its streams run it: channels-last where that of whole clips is.

    Attributes
    ----------
    delay
        Samples by which the output comes late.
    layers
        What computes it.
    pool
        What the streams remember between their steps.
    """

    def __init__(self, networks: Networks, direction: Direction) -> None:
        self.device = networks.device
        streaming = _streaming(networks.model, direction)
        self.delay = streaming.delay
        self.pool = StatePool(streaming.state_size, networks.device)
        whole = networks.decoder if direction == "decode" else networks.encoder
        self.layers: StreamingNetwork | ChannelsLastStreaming = (
            ChannelsLastStreaming(streaming, whole)
            if isinstance(whole, ChannelsLastNetwork)
            else streaming
        )

    def context(
        self,
        starts: Sequence[int],
        ends: Sequence[int],
        samples: int,
        noise: Noise | str,
        before: Tensor,
    ) -> StreamContext:
        """Return where streams stand, and the place for what they will remember.

        Parameters
        ----------
        starts, ends
            Of each stream: the first sample fed, and one past the clip's last.
        samples
            Fed to each.
        noise
            Where decoder noise comes from.
        before
            Tensor[B x S]: what each stream remembers.
        """
        first, last = (
            min(starts),
            max(start + samples - end for start, end in zip(starts, ends, strict=True)),
        )
        now = self.tensor(starts)
        if first == 0:
            before = before.masked_fill((now == 0)[:, None], 0.0)
        edges = first < self.delay or last > 0
        return StreamContext(now, self.tensor(ends), edges, noise, before, torch.empty_like(before))

    def tensor(self, values: Sequence[int]) -> Tensor:
        """Return whole numbers as Tensor[B] of int64 on the device."""
        return torch.tensor(values, dtype=torch.int64, device=self.device)


_made: weakref.WeakKeyDictionary[Networks, dict[Direction, StreamNetwork]]
_made = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def stream_network(networks: Networks, direction: Direction) -> StreamNetwork:
    """Return what all streams of ``networks`` share; it lives as long as they do."""
    with _lock:
        made = _made.setdefault(networks, {})
        if direction not in made:
            made[direction] = StreamNetwork(networks, direction)
        return made[direction]
