"""What computes a model on one device: the networks that encode and decode."""

from __future__ import annotations

from typing import TypeAlias

import torch

from snac_core.inference.preemption import PreemptionPoints
from snac_core.kernels.cpu import CpuBackend, kernels
from snac_core.kernels.cuda_graphs import GraphedNetwork, graphed
from snac_core.kernels.network import ChannelsLastNetwork
from snac_core.model import SNAC
from snac_core.types import Compile, Precision

Network: TypeAlias = SNAC | ChannelsLastNetwork | GraphedNetwork

CUDA_BATCH_SECONDS = 128.0
"""Audio that a GPU computes at once by default."""


class Networks:
    """A model on a device; all that a job needs in order to compute its steps.

    Parameters
    ----------
    model
        The network; its weights are folded in place, and moved to the device.
    device, precision, compile
        As `Codec` takes them.

    Attributes
    ----------
    encoder
        Encodes on this device; its codes are those of ``model``.
    decoder
        Decodes on this device, in ``precision``.
    preemption
        Where other work may preempt the model's on a CPU; None on a GPU, where layers are only
        queued.
    """

    def __init__(
        self, model: SNAC, device: torch.device, precision: Precision, compile: Compile
    ) -> None:
        self.config, self.device, self.precision = model.config, device, precision
        self.model = model.eval().requires_grad_(False).fold().to(device)
        self.preemption = PreemptionPoints(self.model) if device.type == "cpu" else None
        self.encoder: Network = self._fast(compile) or self.model
        half_on_cpu = self.preemption and precision == "bf16"
        self.decoder: Network = self.model if half_on_cpu else self.encoder

    def _fast(self, wanted: Compile) -> ChannelsLastNetwork | GraphedNetwork | None:
        if self.preemption:
            found, on_layer = kernels(wanted), self.preemption.reached
            return ChannelsLastNetwork(self.model, CpuBackend(found), on_layer) if found else None
        if self.device.type == "cuda" and wanted == "on":
            half = self.precision == "bf16"
            return graphed(self.model, self.device, torch.bfloat16 if half else torch.float32)
        return None
