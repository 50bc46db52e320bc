"""Attention inside windows of latents, with rotary positions (Su et al., arXiv:2104.09864)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEAD_DIM = 64


class LocalMHA(nn.Module):
    """Multi-head self-attention in windows that do not overlap, with a skip connection."""

    def __init__(self, dim: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm = nn.LayerNorm(dim)
        self.heads = dim // HEAD_DIM
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.rel_pos = RotaryPositions(HEAD_DIM)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows of ``x``, Tensor[B x C x T] with T a multiple of the window."""
        qkv = self.to_qkv(self.norm(x.transpose(1, 2)))
        query, key, value = (
            rearrange(part, "b (w n) (h d) -> b h w n d", n=self.window_size, h=self.heads)
            for part in qkv.chunk(3, dim=-1)
        )
        query, key = self.rel_pos(query), self.rel_pos(key)
        out = F.scaled_dot_product_attention(query, key, value)
        out = self.to_out(rearrange(out, "b h w n d -> b (w n) (h d)"))
        return torch.add(x, out.transpose(1, 2))


class RotaryPositions(nn.Module):
    """Rotates pairs of features by an angle that grows with their place in the window."""

    inv_freq: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (10000 ** (torch.arange(0, dim, 2).float() / dim)))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate ``x``, Tensor[... x N x D]."""
        places = torch.arange(x.shape[-2], device=x.device).to(self.inv_freq)
        angles = torch.outer(places, self.inv_freq)
        angles = torch.cat((angles, angles), dim=-1)
        low, high = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat((-high, low), dim=-1) * angles.sin()
