"""The network as a CPU computes it fastest: in rows, one window at a time.

The layers are those of `snac_core.layers`, walked once, and their weights are copied into the
order that products of rows read. A signal of ``C`` channels is Tensor[T x C] here: every change
of rate and every point-wise convolution is then a plain product of matrices, and a residual unit
one pass through memory. What has no form of its own here, such as attention, runs as it is
written. Streams have `snac_core.delayed_rows`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core import row_weights
from snac_core.extent import Extent
from snac_core.kernels import Kernels, Space
from snac_core.layers import (
    Chain,
    DecoderBlock,
    EncoderBlock,
    NoiseBlock,
    ResidualUnit,
    Snake1d,
)
from snac_core.model import SNAC
from snac_core.row_weights import RowWeights, changes_rate

Layer: TypeAlias = Callable[[Tensor, Extent, Space], Tensor]


class RowNetwork:
    """A folded `SNAC` on the CPU, for batches of one. Any threads may use it at once.

    Parameters
    ----------
    model
        What it computes. It copies the convolutions' weights and shares the rest.
    kernels
        What it computes most of it with.
    between
        Called before each layer, so that somebody else can be let by.

    Attributes
    ----------
    weights
        The copies, for others who compute the same layers.
    layers
        What ``encode`` and ``decode`` walk, beside the quantizer.
    """

    def __init__(self, model: SNAC, kernels: Kernels, between: Callable[[], None]) -> None:
        self.config, self._quantizer = model.config, model.quantizer
        self.kernels, self.weights, self.between = kernels, RowWeights(), between
        # One for each run that is under way: a run may be started in the middle of another.
        self._spaces: list[Space] = []
        self.layers: dict[str, list[Layer]] = {
            "encode": list(self._layers(model.encoder.block)),
            "decode": list(self._layers(model.decoder.model)),
        }

    def encode(self, audio: Tensor, extent: Extent | None = None) -> list[Tensor]:
        """Return what `SNAC.encode` does, for ``audio``, Tensor[1 x 1 x T]."""
        latent = self._run(self.layers["encode"], audio, extent or Extent(audio.shape[-1]))
        return [level.codes for level in self._quantizer(latent)[1]]

    def decode(self, codes: list[Tensor], extent: Extent | None = None) -> Tensor:
        """Return what `SNAC.decode` does, for codes of one clip."""
        latent = self._quantizer.decode(codes)
        extent = extent or Extent(latent.shape[-1] * self.config.hop)
        return self._run(self.layers["decode"], latent, extent)

    def _run(self, layers: list[Layer], x: Tensor, extent: Extent) -> Tensor:
        if len(x) != 1 or extent.valid is not None:
            raise ValueError(f"rows are of one whole clip, not of a padded batch of {len(x)}")
        with self.space() as space:
            x = _rows(x)
            for layer in layers:
                self.between()
                x = layer(x, extent, space)
            # The space is somebody else's from here on.
            return _channels(x.clone())

    @contextlib.contextmanager
    def space(self) -> Iterator[Space]:
        """Lend memory for one run."""
        try:
            space = self._spaces.pop()
        except IndexError:
            space = Space()
        try:
            yield space
        finally:
            self._spaces.append(space)

    def _layers(self, chain: Chain) -> Iterator[Layer]:
        kernels, weights, modules = self.kernels, self.weights, list(chain)
        for index, module in enumerate(modules):
            before = modules[index - 1] if index else None
            if isinstance(module, (EncoderBlock, DecoderBlock)):
                yield from self._layers(module.block)
            elif isinstance(module, ResidualUnit):
                own = row_weights.depthwise(module)
                yield Unit(module, kernels, weights) if own else AsWritten(module)
            elif isinstance(module, NoiseBlock):
                yield Noisy(module, kernels, weights)
            elif isinstance(module, Snake1d):
                if not changes_rate(modules[index + 1]):
                    yield Activation(module, kernels, weights)
            elif isinstance(module, nn.ConvTranspose1d) and isinstance(before, Snake1d):
                yield Upsampling(before, module, kernels, weights)
            elif not isinstance(module, nn.Conv1d):
                yield AsWritten(module)
            elif changes_rate(module) and isinstance(before, Snake1d):
                yield Downsampling(before, module, kernels, weights)
            elif module.in_channels == 1:
                yield FromOneChannel(module, weights)
            elif module.out_channels == 1:
                yield ToOneChannel(module, weights)
            else:
                yield AsWritten(module)


def _rows(x: Tensor) -> Tensor:
    return x[0].t().contiguous()


def _channels(x: Tensor) -> Tensor:
    return x.t()[None]


class AsWritten:
    """A module that has no form of its own here."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._takes_extent = isinstance(module, ResidualUnit)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Apply the module, channels first."""
        x = _channels(x)
        return _rows(self._module(x, extent) if self._takes_extent else self._module(x))


class Activation:
    """`Snake1d` by itself."""

    def __init__(self, module: Snake1d, kernels: Kernels, weights: RowWeights) -> None:
        self._snake, self._kernels = weights.of(module, row_weights.snake), kernels

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C]."""
        return self._kernels.snake(x, self._snake, space)


class Unit:
    """A depth-wise `ResidualUnit`."""

    def __init__(self, module: ResidualUnit, kernels: Kernels, weights: RowWeights) -> None:
        self._weights, self._kernels = weights.of(module, row_weights.unit), kernels

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C]."""
        return self._kernels.unit(x, self._weights, space)


class Downsampling:
    """An activation and a convolution whose kernel is twice its stride.

    An output reads two blocks of ``stride`` positions, the second of which is the first of
    the next output: two products, without a copy of anything.
    """

    def __init__(
        self, snake: Snake1d, conv: nn.Conv1d, kernels: Kernels, weights: RowWeights
    ) -> None:
        self._kernels, self._snake = kernels, weights.of(snake, row_weights.snake)
        self._stride, self._padding = conv.stride[0], int(conv.padding[0])
        self._weights = weights.of(conv, row_weights.downsampling)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T/stride x 2C]."""
        stride, padding = self._stride, self._padding
        count = (len(x) + 2 * padding) // stride - 1
        after = (count + 1) * stride - padding - len(x)
        active = self._kernels.snake(x, self._snake, space, padding, after)
        early, late, bias = self._weights
        blocks = active.view(count + 1, -1)
        out = space.take(count, len(bias))
        return torch.addmm(bias, blocks[:-1], early, out=out).addmm_(blocks[1:], late)


class Upsampling:
    """An activation and a transposed convolution whose kernel is twice its stride.

    An input gives two blocks of ``stride`` outputs, the second of which adds to the first of the
    next input. The first block begins before the first output, by the padding.
    """

    def __init__(
        self, snake: Snake1d, up: nn.ConvTranspose1d, kernels: Kernels, weights: RowWeights
    ) -> None:
        self._kernels, self._snake = kernels, weights.of(snake, row_weights.snake)
        self._stride, self._padding = up.stride[0], int(up.padding[0])
        self._width = up.out_channels
        self._weights = weights.of(up, row_weights.upsampling)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T*stride x C/2]."""
        active = self._kernels.snake(x, self._snake, space)
        early, late, bias = self._weights
        blocks = space.take(len(x) + 1, len(bias))
        torch.addmm(bias, active, early, out=blocks[:-1])
        blocks[-1] = bias
        blocks[1:].addmm_(active, late)
        return blocks.view(-1, self._width)[self._padding :][: len(x) * self._stride]


class Noisy:
    """`NoiseBlock`."""

    def __init__(self, module: NoiseBlock, kernels: Kernels, weights: RowWeights) -> None:
        self._index, self._kernels = module.index, kernels
        self._mix, _ = weights.of(module.linear, row_weights.mix)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C]."""
        noise = self.draw(_channels(x), extent)
        return x if noise is None else self.add(noise, x, space)

    def draw(self, x: Tensor, extent: Extent) -> Tensor | None:
        """Return noise Tensor[B x 1 x T] for ``x``, Tensor[B x C x T], or None when off."""
        return extent.normal(x, self._index, self._kernels.normal)

    def add(self, noise: Tensor, x: Tensor, space: Space) -> Tensor:
        """Return ``x`` with ``noise``, Tensor[1 x 1 x T]; streams stacked, Tensor[B x 1 x T/B]."""
        return self._kernels.noisy(x, noise.reshape(-1), self._mix, space)


class FromOneChannel:
    """A convolution of a single channel."""

    def __init__(self, conv: nn.Conv1d, weights: RowWeights) -> None:
        self._padding, self._reach = int(conv.padding[0]), conv.kernel_size[0]
        self._taps, self._bias = weights.of(conv, row_weights.from_one_channel)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C] of Tensor[T x 1]."""
        read = F.pad(x[:, 0], (self._padding, self._padding)).unfold(0, self._reach, 1)
        return torch.addmm(self._bias, read, self._taps, out=space.take(len(x), len(self._bias)))


class ToOneChannel:
    """A convolution to a single channel: what each tap gives, then their sum along time."""

    def __init__(self, conv: nn.Conv1d, weights: RowWeights) -> None:
        self._padding = int(conv.padding[0])
        self._taps, self._bias = weights.of(conv, row_weights.to_one_channel)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x 1] of Tensor[T x C]."""
        given = F.pad(torch.mm(self._taps.t(), x.t()), (self._padding, self._padding))
        out = given[0, : len(x)] + self._bias
        for tap in range(1, len(given)):
            out += given[tap, tap : tap + len(x)]
        return out[:, None]
