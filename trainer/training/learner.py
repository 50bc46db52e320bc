"""One training step: forward pass, losses, gradients over all processes, optimizers and EMA."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snac_core.model import SNAC
from snac_core.model.quantizer import Level
from trainer.config import TrainConfig, curriculum
from trainer.errors import TrainerError
from trainer.losses.balancer import Balancer
from trainer.losses.discriminators import Discriminators
from trainer.losses.losses import Losses, term_weights, weighted_sum
from trainer.model.channels_last import channels_last
from trainer.model.codebooks import CodebookUsage
from trainer.model.compile import compile_units
from trainer.model.ema import Ema
from trainer.model.mel_target import MelTarget
from trainer.model.network import Layers, Network
from trainer.model.recomputed import Recomputed
from trainer.model.tf32 import tf32
from trainer.runtime.distributed import World, not_synchronised
from trainer.training.batches import Batch
from trainer.training.earlier_discriminators import load_discriminators

log = logging.getLogger(__name__)

Terms = dict[str, float]


class Learner:
    """A model with everything that is trained beside it, and its training step.

    Parameters
    ----------
    config
        What to learn from, and how fast.
    model
        On the device of ``world``; what has no gradient stays as it is.
    world
        The processes that divide each batch.
    resumed
        Whether `load_state_dict` will give it what it goes on from.

    Attributes
    ----------
    bad, bad_in_a_row
        Steps whose loss or gradient was not finite: they moved nothing.
    """

    def __init__(
        self, config: TrainConfig, model: SNAC, world: World, resumed: bool = False
    ) -> None:
        self.config, self.model, self.world = config, model, world
        self.mel_target = MelTarget(model.config).to(world.device) if config.guided_steps else None
        rate, shared = model.config.sampling_rate, world.mean if world.size > 1 else None
        # Copied before anything is compiled.
        self.ema = Ema(model, config.ema_decay) if config.ema_decay else None
        layers: Layers | None = channels_last(config, model, world.device)
        if config.gradient_checkpointing:
            layers = Recomputed(model)
        elif layers is not None:
            log.info("encoder and decoder are computed by compiled kernels")
        if config.compile and (layers is None or config.gradient_checkpointing):
            log.info("%d residual units are compiled as they are met", compile_units(model))
        self.losses = Losses(config, rate, shared).to(world.device)
        self.weights = term_weights(config)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = _adam(self.trained, config, config.learning_rate, config.betas)
        self.network = world.wrapped(Network(model, config, self.mel_target, layers))
        self._divided = [self.network]
        self.discriminators: Discriminators | None = None
        if config.adversarial:
            self.discriminators = Discriminators(config, shared).to(world.device)
            world.broadcast_(list(self.discriminators.parameters()))
            self.discriminator = world.wrapped(self.discriminators)
            self._divided.append(self.discriminator)
            self.discriminator_optimizer = _adam(
                list(self.discriminators.parameters()),
                config,
                config.discriminator_learning_rate,
                config.discriminator_betas,
            )
        self.balancer: Balancer | None = None
        if config.loss_balancer:
            self.balancer = Balancer(self.weights, global_count=shared)
        if config.discriminator_checkpoint is not None and not resumed:
            self._take_discriminators(config.discriminator_checkpoint)
        self.codebook_usage = CodebookUsage(model.quantizer, config.random_seed, world)
        self.bad = self.bad_in_a_row = 0

    @property
    def best_guess(self) -> SNAC:
        """The model to validate and publish: with averaged weights, if there are any."""
        return self.model if self.ema is None else self.ema.model

    def step(self, batch: Batch, step: int, total_steps: int) -> Terms | None:
        """Learn from one batch; return its terms, or None when it could not be learnt from.

        Parameters
        ----------
        batch
            This process's part. Parts may differ in size, and be empty.
        step, total_steps
            Decide the learning rate and the noise.

        Raises
        ------
        TrainerError
            When ``max_bad_steps`` in a row were not finite. No weight was moved by them.
        """
        config = self.config
        share = curriculum.learning_rate(config, step, total_steps) / config.learning_rate
        optimizers = self._optimizers(step)
        for optimizer, rate in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        balanced = None if self.balancer is None else copy.deepcopy(self.balancer.state_dict())
        with tf32(config.allow_tf32):
            terms, levels = self._gradients(batch, step)
        limit = config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.trained, limit)
        sizes = [terms[name] for name in terms] + [norm]
        if self.discriminators is not None and self.discriminators.learns(step):
            sizes.append(torch.nn.utils.clip_grad_norm_(self.discriminators.parameters(), limit))
        # Shared, so that all processes decide alike; and the one wait for the device in a step.
        values = self.world.mean(torch.stack(sizes)).tolist()
        found = dict(zip(terms, values, strict=False)) | {"gradient_norm": values[len(terms)]}
        if not all(map(math.isfinite, values)):
            if self.balancer is not None and balanced is not None:
                self.balancer.load_state_dict(balanced)
            self._count_bad(found, step)
            return None
        self.bad_in_a_row = 0
        for optimizer, _ in optimizers:
            optimizer.step()
        if config.quantizer_trains:
            self.codebook_usage.learn(levels, config.codebook_decay)
        if self.ema is not None:
            self.ema.update(self.model)
        return found | {"learning_rate": config.learning_rate * share}

    def state_dict(self) -> dict[str, Any]:
        """Return everything beside the model's weights that the next step depends on."""
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "codebooks": self.codebook_usage.state_dict(),
            "bad": self.bad,
            "bad_in_a_row": self.bad_in_a_row,
        }
        if self.mel_target is not None:
            state["guide"] = self.mel_target.state_dict()
        if self.discriminators is not None:
            state["adversary"] = self.discriminators.state_dict()
            state["rival_optimizer"] = self.discriminator_optimizer.state_dict()
        if self.balancer is not None:
            state["balancer"] = self.balancer.state_dict()
        if self.ema is not None:
            state["average"] = self.ema.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the model's weights are as they were then."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.codebook_usage.load_state_dict(state["codebooks"])
        self.bad, self.bad_in_a_row = state["bad"], state["bad_in_a_row"]
        if self.mel_target is not None:
            self.mel_target.load_state_dict(state["guide"])
        if self.discriminators is not None:
            self.discriminators.load_state_dict(state["adversary"])
            self.discriminator_optimizer.load_state_dict(state["rival_optimizer"])
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])

    def _take_discriminators(self, path: str) -> None:
        """Load the discriminators of another run, and their optimizer's state."""
        assert self.discriminators is not None
        state = load_discriminators(self.discriminators, path)
        settings = self.discriminator_optimizer.state_dict()["param_groups"]
        self.discriminator_optimizer.load_state_dict({**state, "param_groups": settings})

    def _optimizers(self, step: int) -> list[tuple[torch.optim.Optimizer, float]]:
        """Return each optimizer that takes ``step``, and its rate at the top of the schedule."""
        pairs: list[tuple[torch.optim.Optimizer, float]] = [
            (self.optimizer, self.config.learning_rate)
        ]
        if self.discriminators is not None and self.discriminators.learns(step):
            pairs.append((self.discriminator_optimizer, self.config.discriminator_learning_rate))
        return pairs

    def _gradients(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], list[Level]]:
        """Accumulate the gradients of one batch, part by part.

        Returns
        -------
        The terms' values, and the levels of this process's segments.
        """
        parts = batch.parts(self.config.accumulate)
        total: dict[str, Tensor] = {}
        levels: list[list[Level]] = []
        for number, (part, share) in enumerate(zip(parts, self._shares(parts), strict=True)):
            with contextlib.ExitStack() as stack:
                if number + 1 < len(parts):
                    for module in self._divided:
                        stack.enter_context(not_synchronised(module))
                terms, made = self._part(part, share, step)
            levels.append(made)
            for name, value in terms.items():
                value = share * value.detach()
                total[name] = total[name] + value if name in total else value
        return total, [_one_below_the_other(same) for same in zip(*levels, strict=True)]

    def _part(self, part: Batch, share: float, step: int) -> tuple[dict[str, Tensor], list[Level]]:
        """Add the gradients of one part, which is ``share`` of the batch."""
        count = len(part.audio)
        if not count:
            # Processes must do the same, and one that has nothing to read has silence: its
            # padding alone, which counts for nothing.
            silent = part.audio.new_zeros(1, *part.audio.shape[1:])
            part = Batch(silent, silent, part.places.new_zeros(1))
        context = part.context(self.model.config, part.noise(self.config.random_seed, step))
        out, distance = self.network(part.audio, context, step < self.config.guided_steps)
        terms: dict[str, Tensor] = self.losses(out, part.audio, part.own)
        if distance is not None:
            terms["guide"] = distance
            terms["loss"] = weighted_sum(terms, self.weights)
        discriminator_loss: Tensor | None = None
        if self.discriminators is not None:
            if self.discriminators.learns(step):
                discriminator_loss = self.discriminator(out.audio, part.audio, part.own)
                (share * discriminator_loss).backward()
            if self.discriminators.teaches(step):
                terms |= self.discriminators.generator_terms(out.audio, part.audio, part.own)
                terms["loss"] = weighted_sum(terms, self.weights)
        if self.balancer is None:
            (share * terms["loss"]).backward()  # type: ignore[no-untyped-call]
        else:
            weighed = {name: terms[name] for name in terms if name in self.weights}
            self.balancer.backward(weighed, out.audio, share)
        if discriminator_loss is not None:
            terms["discriminator"] = discriminator_loss
        return terms, [Level(*(field[:count] for field in level)) for level in out.levels]

    def _shares(self, parts: Sequence[Batch]) -> list[float]:
        """Return each part's share of the samples in the batches of all processes."""
        if len(parts) == 1:
            return [1.0]
        samples = self.world.sum(torch.stack([part.own.sum() for part in parts]).double())
        return (samples / samples.sum().clamp(min=1.0)).tolist()

    def _count_bad(self, found: Terms, step: int) -> None:
        self.bad += 1
        self.bad_in_a_row += 1
        said = f"loss {found['loss']}, gradient {found['gradient_norm']} at step {step}"
        log.warning("a step is left out, as it is not finite (%d so far): %s", self.bad, said)
        if self.bad_in_a_row >= self.config.max_bad_steps:
            raise TrainerError(
                f"{self.bad_in_a_row} steps in a row were not finite ({said}): a lower "
                f"learning_rate, a longer warm-up or a grad_clip may help"
            )


def _one_below_the_other(parts: Sequence[Level]) -> Level:
    """Concatenate one level of several batches."""
    fields = zip(*parts, strict=True)
    return Level(*(torch.cat([tensor.detach() for tensor in field]) for field in fields))


def _adam(
    weights: list[nn.Parameter], config: TrainConfig, rate: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        weights, lr=rate, betas=betas, weight_decay=config.weight_decay, fused=True
    )
