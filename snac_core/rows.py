"""The network as a CPU computes it fastest: in rows, one window at a time.

The layers are those of `snac_core.layers`, walked once, and their weights are copied into the
order that products of rows read. A signal of ``C`` channels is Tensor[T x C] here: every change
of rate and every point-wise convolution is then a plain product of matrices, and a residual unit
one pass through memory. What has no form of its own here, such as attention, runs as it is
written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.extent import Extent
from snac_core.kernels import Kernels, Snake, Space, UnitWeights
from snac_core.layers import (
    Chain,
    DecoderBlock,
    EncoderBlock,
    NoiseBlock,
    ResidualUnit,
    Snake1d,
)
from snac_core.model import SNAC

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
    """

    def __init__(self, model: SNAC, kernels: Kernels, between: Callable[[], None]) -> None:
        self.config, self._quantizer, self._between = model.config, model.quantizer, between
        # One for each run that is under way: a run may be started in the middle of another.
        self._spaces: list[Space] = []
        with torch.no_grad():
            self._encoder = list(_layers(model.encoder.block, kernels))
            self._decoder = list(_layers(model.decoder.model, kernels))

    def encode(self, audio: Tensor, extent: Extent | None = None) -> list[Tensor]:
        """Return what `SNAC.encode` does, for ``audio``, Tensor[1 x 1 x T]."""
        latent = self._run(self._encoder, audio, extent or Extent(audio.shape[-1]))
        return [level.codes for level in self._quantizer(latent)[1]]

    def decode(self, codes: list[Tensor], extent: Extent | None = None) -> Tensor:
        """Return what `SNAC.decode` does, for codes of one clip."""
        latent = self._quantizer.decode(codes)
        return self._run(
            self._decoder, latent, extent or Extent(latent.shape[-1] * self.config.hop)
        )

    def _run(self, layers: list[Layer], x: Tensor, extent: Extent) -> Tensor:
        if len(x) != 1 or extent.valid is not None:
            raise ValueError(f"rows are of one whole clip, not of a padded batch of {len(x)}")
        with self._space() as space:
            x = _rows(x)
            for layer in layers:
                self._between()
                x = layer(x, extent, space)
            # The space is somebody else's from here on.
            return _channels(x.clone())

    @contextlib.contextmanager
    def _space(self) -> Iterator[Space]:
        try:
            space = self._spaces.pop()
        except IndexError:
            space = Space()
        try:
            yield space
        finally:
            self._spaces.append(space)


def _rows(x: Tensor) -> Tensor:
    return x[0].t().contiguous()


def _channels(x: Tensor) -> Tensor:
    return x.t()[None]


def _layers(chain: Chain, kernels: Kernels) -> Iterator[Layer]:
    modules = list(chain)
    for index, module in enumerate(modules):
        before = modules[index - 1] if index else None
        if isinstance(module, (EncoderBlock, DecoderBlock)):
            yield from _layers(module.block, kernels)
        elif isinstance(module, ResidualUnit):
            yield Unit(module, kernels) if _conv(module.block[1]).groups > 1 else AsWritten(module)
        elif isinstance(module, NoiseBlock):
            yield Noisy(module)
        elif isinstance(module, Snake1d):
            if not _changes_rate(modules[index + 1]):
                yield Activation(module, kernels)
        elif _changes_rate(module) and isinstance(before, Snake1d):
            up = isinstance(module, nn.ConvTranspose1d)
            yield (Upsampling if up else Downsampling)(before, module, kernels)  # type: ignore[arg-type]
        elif isinstance(module, nn.Conv1d) and module.in_channels == 1:
            yield FromOneChannel(module)
        elif isinstance(module, nn.Conv1d) and module.out_channels == 1:
            yield ToOneChannel(module)
        else:
            yield AsWritten(module)


def _changes_rate(module: nn.Module) -> bool:
    up = isinstance(module, nn.ConvTranspose1d)
    return up or (isinstance(module, nn.Conv1d) and module.kernel_size[0] == 2 * module.stride[0])


def _conv(module: nn.Module) -> nn.Conv1d:
    return cast(nn.Conv1d, module)


def _snake(module: nn.Module) -> Snake:
    alpha = cast(Snake1d, module).alpha.reshape(-1)
    return Snake(alpha.contiguous(), (alpha + 1e-9).reciprocal())


def _bias(module: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    return torch.zeros(module.out_channels) if module.bias is None else module.bias.contiguous()


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

    def __init__(self, module: Snake1d, kernels: Kernels) -> None:
        self._snake, self._kernels = _snake(module), kernels

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C]."""
        return self._kernels.snake(x, self._snake, space)


class Unit:
    """A depth-wise `ResidualUnit`."""

    def __init__(self, module: ResidualUnit, kernels: Kernels) -> None:
        self._kernels = kernels
        wide, mix = _conv(module.block[1]), _conv(module.block[3])
        self._weights = UnitWeights(
            dilation=wide.dilation[0],
            first=_snake(module.block[0]),
            taps=wide.weight[:, 0].t().contiguous(),
            bias=_bias(wide),
            second=_snake(module.block[2]),
            mix=mix.weight[:, :, 0].t().contiguous(),
            mix_bias=_bias(mix),
        )

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C]."""
        return self._kernels.unit(x, self._weights, space)


class Downsampling:
    """An activation and a convolution whose kernel is twice its stride.

    An output reads two blocks of ``stride`` positions, the second of which is the first of
    the next output: two products, without a copy of anything.
    """

    def __init__(self, snake: Snake1d, conv: nn.Conv1d, kernels: Kernels) -> None:
        self._kernels, self._snake = kernels, _snake(snake)
        self._stride, self._padding = conv.stride[0], int(conv.padding[0])
        taps = conv.weight.permute(2, 1, 0)
        self._early, self._late = (
            part.reshape(-1, conv.out_channels).contiguous() for part in taps.chunk(2)
        )
        self._bias = _bias(conv)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T/stride x 2C]."""
        stride, padding = self._stride, self._padding
        count = (len(x) + 2 * padding) // stride - 1
        after = (count + 1) * stride - padding - len(x)
        active = self._kernels.snake(x, self._snake, space, padding, after)
        blocks = active.view(count + 1, -1)
        out = space.take(count, len(self._bias))
        return torch.addmm(self._bias, blocks[:-1], self._early, out=out).addmm_(
            blocks[1:], self._late
        )


class Upsampling:
    """An activation and a transposed convolution whose kernel is twice its stride.

    An input gives two blocks of ``stride`` outputs, the second of which adds to the first of the
    next input. The first block begins before the first output, by the padding.
    """

    def __init__(self, snake: Snake1d, up: nn.ConvTranspose1d, kernels: Kernels) -> None:
        self._kernels, self._snake = kernels, _snake(snake)
        self._stride, self._padding = up.stride[0], int(up.padding[0])
        self._width = up.out_channels
        taps = up.weight.permute(0, 2, 1)
        self._early, self._late = (
            part.reshape(up.in_channels, -1).contiguous() for part in taps.chunk(2, dim=1)
        )
        self._bias = _bias(up).repeat(self._stride)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T*stride x C/2]."""
        active = self._kernels.snake(x, self._snake, space)
        blocks = space.take(len(x) + 1, len(self._bias))
        torch.addmm(self._bias, active, self._early, out=blocks[:-1])
        blocks[-1] = self._bias
        blocks[1:].addmm_(active, self._late)
        return blocks.view(-1, self._width)[self._padding :][: len(x) * self._stride]


class Noisy:
    """`NoiseBlock`."""

    def __init__(self, module: NoiseBlock) -> None:
        self._index = module.index
        self._mix = _conv(module.linear).weight[:, :, 0].t().contiguous()

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C]."""
        noise = extent.normal(_channels(x), self._index)
        if noise is None:
            return x
        out = torch.mm(x, self._mix, out=space.take(*x.shape))
        return out.mul_(noise[0].t()).add_(x)


class FromOneChannel:
    """A convolution of a single channel."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self._padding, self._reach = int(conv.padding[0]), conv.kernel_size[0]
        self._taps, self._bias = conv.weight[:, 0].t().contiguous(), _bias(conv)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x C] of Tensor[T x 1]."""
        read = F.pad(x[:, 0], (self._padding, self._padding)).unfold(0, self._reach, 1)
        return torch.addmm(self._bias, read, self._taps, out=space.take(len(x), len(self._bias)))


class ToOneChannel:
    """A convolution to a single channel: what each tap gives, then their sum along time."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self._padding = int(conv.padding[0])
        self._taps, self._bias = conv.weight[0].contiguous(), _bias(conv)

    def __call__(self, x: Tensor, extent: Extent, space: Space) -> Tensor:
        """Return Tensor[T x 1] of Tensor[T x C]."""
        given = F.pad((x @ self._taps).t(), (self._padding, self._padding))
        out = given[0, : len(x)] + self._bias
        for tap in range(1, len(given)):
            out += given[tap, tap : tap + len(x)]
        return out[:, None]
