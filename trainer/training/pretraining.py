"""Encoder and quantizer, before there is a decoder to train: ``snac-trainer pretrain``.

A `SpectrogramReader` takes the decoder's place, so that a second of audio costs a fraction of
what it costs in training. The checkpoint that comes out has the decoder of the base, whose first
layer is fitted to the new latent; ``train`` with ``freeze_encoder`` and ``freeze_vq`` then teaches
it the new tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_core.model import SNAC
from snac_core.model.quantizer import Level, VectorQuantize
from snac_core.utils.commands import progress
from trainer.config import TrainConfig, curriculum
from trainer.data.loader_processes import reading
from trainer.data.segments import loader
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError
from trainer.model.channels_last import channels_last
from trainer.model.codebooks import CodebookUsage
from trainer.model.decoder_input import fit_decoder_input
from trainer.model.network import starting_model
from trainer.model.spectrogram_reader import SpectrogramReader
from trainer.runtime.checkpointing import Writer
from trainer.runtime.distributed import World
from trainer.runtime.progress import TrainState
from trainer.runtime.resume import check_settings
from trainer.runtime.stopping import StopRequest, listening
from trainer.training.batches import Batch, DeviceTransfer
from trainer.training.epochs import Epochs
from trainer.training.find_data import find_data
from trainer.training.validation import ValidationSet

log = logging.getLogger(__name__)

RESULT, LATEST = "pretrained.pt", "pretraining_latest.pt"
CONTINUOUS_WEIGHT = 0.3
"""Of the loss of a second reader, which sees the latent before it is quantized."""
FITTED_LATENTS = 20
"""Latents, for each channel of one, that the decoder's first layer is fitted to."""


def pretrain(config: TrainConfig, device: torch.device) -> Path:
    """Train encoder and quantizer on spectra, and return the path of ``pretrained.pt``.

    Writes it and ``pretraining_latest.pt`` into ``config.output_dir``. Asked to stop, it saves
    and returns; the next call goes on from there, to the bit on a CPU.

    Parameters
    ----------
    config
        Its keys for data, augmentation, crops, batches, learning rate, codebooks and saving
        count, and ``max_steps`` or the epochs for how long; those of losses do not.
    device
        To train on.

    Raises
    ------
    SnacError
        When the configuration, the data or the base model cannot be used, or the loss is no
        longer a number.
    """
    if config.freeze_encoder or config.freeze_vq:
        raise TrainerError("pretrain trains the encoder and the quantizer: neither may be frozen")
    with (
        listening() as stop,
        torch.autograd.set_multithreading_enabled(False),
        Writer() as writer,
    ):
        Pretraining(config, World(device), writer).train(stop)
    return Path(config.output_dir) / RESULT


class Pretraining:
    """A model whose encoder and quantizer learn, the two readers, and where the run is."""

    def __init__(self, config: TrainConfig, world: World, writer: Writer) -> None:
        self.config, self.writer, self.output = config, writer, Path(config.output_dir)
        torch.manual_seed(config.random_seed)
        model, _ = starting_model(config)
        self.model = with_unit_directions(model).to(world.device)
        self.layers = channels_last(config, model, world.device) or model
        self.reader, self.continuous_reader = (
            SpectrogramReader(model.config).to(world.device) for _ in range(2)
        )
        self.readers = nn.ModuleList([self.reader, self.continuous_reader])
        unreadable = Unreadable(self.output / "unreadable.csv")
        self.transfer = DeviceTransfer(world, model.config)
        found = find_data(config, world, unreadable)
        self.epochs = Epochs(config, found.training, model.config, world, self.transfer)
        self.validation = ValidationSet(
            config, found.validation, model.config.sampling_rate, world, self.transfer, unreadable
        ).segments(curriculum.longest(config).length)
        for level in model.quantizer.quantizers:
            cast(VectorQuantize, level).codebook.requires_grad_(False)
        self.trained = [
            *model.encoder.parameters(),
            *(one for one in model.quantizer.parameters() if one.requires_grad),
            *self.readers.parameters(),
        ]
        self.optimizer = torch.optim.AdamW(
            self.trained, config.learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self.codebooks = CodebookUsage(model.quantizer, config.random_seed, world)
        self.state, self.audio_seconds = TrainState(), 0.0
        self.output.mkdir(parents=True, exist_ok=True)
        if (self.output / LATEST).exists():
            self._restore(self.output / LATEST)

    def train(self, stop: StopRequest) -> None:
        """Take the steps that are left, or those until ``stop``, and save."""
        try:
            self._take_steps(stop)
        finally:
            # A step that failed has moved nothing, so what was learnt before it is kept.
            self._save()
        if stop.requested:
            log.info("stopped at step %d; the same command goes on from there", self.state.step)
            return
        self._say_validation()
        self._fit_decoder()

    def _take_steps(self, stop: StopRequest) -> None:
        total, validate = self.epochs.total_steps, self.config.eval_every_batches
        saved = time.monotonic()
        with progress(total=total, initial=self.state.step, desc="pretraining") as bar:
            for batch, seconds in self._batches(stop):
                terms = self.learn(batch)
                self.state.step += 1
                self.audio_seconds += seconds
                bar.update()
                bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()})
                if self.state.step % self.config.log_every == 0:
                    said = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
                    log.info("step %d of %d: %s", self.state.step, total, said)
                if validate and self.state.step % validate == 0:
                    self._say_validation()
                every = self.config.save_every_minutes
                due = every is not None and time.monotonic() - saved >= 60 * every
                if due or stop.save_requested:
                    stop.save_requested = False
                    self._save()
                    saved = time.monotonic()

    def learn(self, batch: Batch) -> dict[str, float]:
        """Take one step and return its terms."""
        config = self.config
        rate = curriculum.learning_rate(config, self.state.step, self.epochs.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms, levels = self._terms(batch)
        loss = terms["mel"] + CONTINUOUS_WEIGHT * terms["continuous"]
        loss = loss + config.commitment_weight * terms["commitment"]
        if not torch.isfinite(loss):
            raise TrainerError(f"the loss is {float(loss.detach())} at step {self.state.step}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.trained, config.grad_clip)
        self.optimizer.step()
        self.codebooks.learn(levels, config.codebook_decay)
        every = config.revive_codes_every
        if every and (self.state.step + 1) % every == 0:
            self.codebooks.revive()
        return {name: float(value.detach()) for name, value in terms.items()}

    def validate(self) -> float | None:
        """Return ``mel`` over the fixed segments of ``val_data``; None if none can be read."""
        total = count = 0.0
        size = self.config.eval_batch_size or self.config.batch_size
        with torch.no_grad(), reading():
            for loaded in loader(self.validation, size, 0):
                batch = self.transfer.take(loaded)
                if len(batch.audio):
                    total += len(batch.audio) * float(self._terms(batch)[0]["mel"])
                    count += len(batch.audio)
        return total / count if count else None

    def _terms(self, batch: Batch) -> tuple[dict[str, Tensor], list[Level]]:
        """Return the terms of a batch, and its levels.

        ``mel`` is the error of the spectra read from quantized latents, natural logarithm;
        ``continuous`` is that before quantization; ``commitment`` the latents' distance from
        their entries, squared, over their own mean square.
        """
        # The encoder makes no noise; only the context's lengths count.
        context = batch.context(self.model.config, batch.noise(self.config.random_seed))
        latent = self.layers.encoder(batch.audio, context)
        quantized, levels = self.model.quantizer(latent)
        own = F.max_pool1d(batch.own.float(), self.model.config.hop)
        with torch.no_grad():
            target = self.reader.target(batch.audio)
        terms = {
            "mel": self.reader.distance(quantized, target, own),
            "continuous": self.continuous_reader.distance(latent, target, own),
            "commitment": torch.stack([_distance(level) for level in levels]).sum(),
        }
        return terms, levels

    def _batches(self, stop: StopRequest) -> Iterator[tuple[Batch, float]]:
        """Yield what is left to learn from, and the seconds of audio in each batch."""
        state = self.state
        while state.epoch <= len(self.epochs.all):
            batches = iter(self.epochs.batches(state.epoch, state.batch))
            for _ in range(state.batch, self.epochs[state.epoch].steps):
                if stop.requested or state.step >= self.epochs.total_steps:
                    return
                batch, present, seconds = self.epochs.next(batches)
                state.batch += 1
                if present:
                    yield batch, seconds
            state.epoch, state.batch = state.epoch + 1, 0

    def _fit_decoder(self) -> None:
        """Fit the decoder's first layer to the new latent, if the base's decoder knew another."""
        if self.config.pretrained_model is None:
            return
        before, _ = starting_model(self.config)
        batches: list[Tensor] = []
        latents = 0
        for loaded in self.epochs.batches(1):
            batch = self.transfer.take(loaded)
            batches.append(batch.audio)
            latents += batch.audio.numel() // self.model.config.hop
            if latents > FITTED_LATENTS * self.model.config.latent_channels:
                break
        share = fit_decoder_input(self.model, before.to(batches[0].device), batches)
        log.info("the decoder's first layer is fitted: %.0f %% of its variance", 100 * share)
        self.writer.save(self.output / RESULT, self._model())

    def _model(self) -> dict[str, Any]:
        return {"config": self.model.config.to_dict(), "model": self.model.state_dict()}

    def _say_validation(self) -> None:
        mel = self.validate()
        said = "no segment could be read" if mel is None else f"mel {mel:.4f}"
        log.info(
            "step %d, %.0f audio-seconds: validation: %s", self.state.step, self.audio_seconds, said
        )

    def _save(self) -> None:
        state = {
            "train_config": self.config.to_dict(),
            "readers": self.readers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "codebooks": self.codebooks.state_dict(),
            "run": self.state.state_dict(),
            "audio_seconds": self.audio_seconds,
        }
        self.writer.save(self.output / LATEST, self._model() | state)
        self.writer.save(self.output / RESULT, self._model())

    def _restore(self, path: Path) -> None:
        content = torch.load(path, self.epochs.world.device, weights_only=True)
        check_settings(self.config, content["train_config"], path)
        self.model.load_state_dict(content["model"])
        self.readers.load_state_dict(content["readers"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.codebooks.load_state_dict(content["codebooks"])
        self.state.load_state_dict(content["run"])
        self.audio_seconds = content["audio_seconds"]
        if content["train_config"]["batch_size"] != self.config.batch_size:
            self.epochs.rescale(self.state, content["train_config"]["batch_size"])
        log.info("going on from step %d", self.state.step)


def with_unit_directions(model: SNAC) -> SNAC:
    """Return ``model``, whose quantizer's weight directions have been made of length 1.

    Weights stay as they are: weight norm divides by that length. But a step of Adam moves every
    number by as much, whatever its size, and so turns a direction that is tiny at random.
    """
    for module in model.quantizer.quantizers:
        level = cast(VectorQuantize, module)
        for projection in (level.in_proj, level.out_proj):
            # weight = original0 * original1 / |original1|
            direction = projection.parametrizations.weight.original1
            with torch.no_grad():
                direction.div_(direction.norm(dim=(1, 2), keepdim=True))
    return model


def _distance(level: Level) -> Tensor:
    """Return how far latents are from their entries, whatever scale they have."""
    size = level.projected.detach().square().mean().clamp(min=1e-6)
    return (level.projected - level.entries.detach()).square().mean() / size
