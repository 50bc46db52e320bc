"""The training loop, top to bottom.

    snac-trainer train --config trainer/configs/phase10_curriculum.json --device 0
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from snac_core.checkpoint import load_model
from snac_core.extent import Extent, Noise
from snac_core.model import SNAC, Reconstruction
from trainer import curriculum
from trainer.checkpointing import save
from trainer.codebooks import CodebookUse, draw_from_encoder
from trainer.config import TrainConfig
from trainer.data import (
    Segment,
    Shuffled,
    TrainingSegments,
    ValidationSegments,
    loader,
    scan,
)
from trainer.losses import Losses
from trainer.publish import publish

log = logging.getLogger(__name__)

Terms = dict[str, float]


def train(config: TrainConfig, device: torch.device) -> Path:
    """Train as ``config`` says and return the path of ``best_model.pt``.

    Writes into ``config.output_dir``: ``config.json``, ``baseline_metrics.json``,
    ``best_model.pt``, ``checkpoint_epoch{N}.pt``, ``checkpoint_latest.pt`` and TensorBoard
    logs under ``logs/``.

    Raises
    ------
    SnacError
        When the configuration, the data or the base model cannot be used.
    """
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    torch.manual_seed(config.random_seed)
    run = Run(config, device, output)
    with contextlib.closing(SummaryWriter(output / "logs")) as board:
        run.baseline(board)
        run.prepare_codebooks()
        for epoch in range(1, config.num_epochs + 1):
            run.train_epoch(epoch, board)
            if epoch % config.save_every == 0 or run.finished:
                run.save(output / f"checkpoint_epoch{epoch}.pt", epoch)
            run.validate(epoch, board)
            if run.finished:
                break
    return output / "best_model.pt"


class Run:
    """The state of one training run."""

    def __init__(self, config: TrainConfig, device: torch.device, output: Path) -> None:
        self.config, self.device, self.output = config, device, output
        self.model = _starting_model(config).to(device)
        self.model.encoder.requires_grad_(not config.freeze_encoder)
        self.model.quantizer.requires_grad_(not config.freeze_vq)
        self.sample_rate = self.model.config.sampling_rate
        self.forward = torch.compile(self.model) if config.compile else self.model
        self.losses = Losses(config, self.sample_rate).to(device)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.use = CodebookUse(self.model.quantizer, config.random_seed)
        self.clips = scan(config.train_data)
        self.val_clips = scan(config.val_data)
        self.step, self.best, self.baseline_loss = 0, float("inf"), float("nan")
        self.total_steps = min(
            config.max_steps or 2**62,
            sum(len(self._batches(epoch)) for epoch in range(1, config.num_epochs + 1)),
        )
        self.saved_at = time.monotonic()
        log.info(
            "%s: %d recordings, %.1f h to train on; %d to validate; %d steps",
            config.name,
            len(self.clips),
            sum(clip.seconds for clip in self.clips) / 3600,
            len(self.val_clips),
            self.total_steps,
        )

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken."""
        return self.step >= self.total_steps

    def baseline(self, board: SummaryWriter) -> None:
        """Measure the untouched base model on every stage's segment length, and write it down."""
        lengths = {
            curriculum.plan(self.config, epoch).length
            for epoch in range(1, self.config.num_epochs + 1)
        }
        stages = {f"{length:g}": self.evaluate(length) for length in sorted(lengths)}
        fixed = stages[f"{curriculum.longest(self.config).length:g}"]
        self.baseline_loss = fixed["loss"]
        report = {"val_loss": fixed["loss"], "fixed": fixed, "stages": stages}
        (self.output / "baseline_metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        _write(board, "val", fixed, 0)
        log.info("baseline val_loss %.4f", fixed["loss"])

    def prepare_codebooks(self) -> None:
        """Draw the entries of a model that starts from random weights from its latents."""
        if self.config.model is not None:
            batches = (self._on_device(batch).audio for batch in islice(self._batches(1), 24))
            draw_from_encoder(self.model, batches, self.use)

    def train_epoch(self, epoch: int, board: SummaryWriter) -> None:
        """Take one pass over the training data, or what is left of ``max_steps``."""
        batches = self._batches(epoch)
        length = curriculum.plan(self.config, epoch).length
        title = f"epoch {epoch}/{self.config.num_epochs} {length:g} s"
        progress = tqdm(islice(batches, self.total_steps - self.step), title, len(batches))
        self.model.train()
        for batch in progress:
            started = time.perf_counter()
            terms = self.train_step(self._on_device(batch))
            speed = batch.audio.numel() / self.sample_rate / (time.perf_counter() - started)
            progress.set_postfix(loss=f"{terms['loss']:.3f}", audio_s_per_s=f"{speed:.1f}")
            if self.step % 10 == 0:
                _write(board, "train", terms | {"audio_seconds_per_second": speed}, self.step)
            self._keep_codebooks(board)
            self._save_between(epoch, board)

    def train_step(self, batch: Segment) -> Terms:
        """Take one step and return its loss terms, learning rate and gradient norm."""
        rate = curriculum.learning_rate(self.config, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            out: Reconstruction = self.forward(batch.audio)
        losses = self.losses(out, batch.audio, batch.own)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.grad_clip or float("inf")
        )
        self.optimizer.step()
        self.step += 1
        if self.config.quantizer_trains:
            self.use.observe(out.levels)
        return _floats(losses) | {"learning_rate": rate, "gradient_norm": float(norm)}

    @torch.no_grad()
    def evaluate(self, seconds: float) -> Terms:
        """Return the mean loss terms over fixed segments of ``seconds``, with seeded noise."""
        config = self.config
        segments = ValidationSegments(
            self.val_clips, seconds, self.sample_rate, config.val_segments, config.random_seed
        )
        size = config.eval_batch_size or curriculum.longest(config).batch
        self.model.eval()
        totals: Terms = {}
        for number, batch in enumerate(loader(segments, size, config.num_workers)):
            audio, own = self._on_device(batch)
            places = torch.arange(len(audio), device=self.device)
            noise = Noise(number * size + places, torch.zeros_like(places))
            out = self.model(audio, Extent(audio.shape[-1], noise=noise))
            for name, value in _floats(self.losses(out, audio, own)).items():
                totals[name] = totals.get(name, 0.0) + value * len(audio)
        self.model.train()
        return {name: value / len(segments) for name, value in totals.items()}

    def validate(self, epoch: int, board: SummaryWriter) -> None:
        """Measure on the fixed set; keep, and publish, the model when it is the best so far."""
        terms = self.evaluate(curriculum.longest(self.config).length)
        _write(board, "val", terms, self.step)
        better = terms["loss"] < self.best
        log.info(
            "step %d val_loss %.4f%s", self.step, terms["loss"], " (best)" if better else ""
        )
        if not better:
            return
        self.best = terms["loss"]
        gain = 1.0 - self.best / self.baseline_loss
        metrics = {
            "baseline_val_loss": self.baseline_loss,
            "best_val_loss": self.best,
            "improvement": gain,
            **{f"val_{name}": value for name, value in terms.items() if name != "loss"},
        }
        path = self.output / "best_model.pt"
        self.save(path, epoch, metrics=metrics)
        if self.config.publish_to is not None:
            version = publish(path, Path(self.config.publish_to))
            log.info("published %s to %s", version, self.config.publish_to)

    def save(self, path: Path, epoch: int, metrics: dict[str, Any] | None = None) -> None:
        """Write a checkpoint; the best one holds no optimizer, as it is not resumed from."""
        best = metrics is not None
        save(
            path,
            {
                "config": self.model.config.to_dict(),
                "model": self.model.state_dict(),
                "metrics": metrics or {},
                "train_config": self.config.to_dict(),
                "epoch": epoch,
                "step": self.step,
                **({} if best else {"optimizer": self.optimizer.state_dict(), "best": self.best}),
            },
        )

    def _keep_codebooks(self, board: SummaryWriter) -> None:
        every = self.config.revive_codes_every
        if not (self.config.quantizer_trains and every) or self.step % every:
            return
        for level, perplexity in enumerate(self.use.perplexities()):
            board.add_scalar(f"codebook/perplexity_{level}", perplexity, self.step)
        # The last fifth is left alone, so that every entry has settled in the end.
        if self.step < 0.8 * self.total_steps:
            for level, count in enumerate(self.use.revive()):
                board.add_scalar(f"codebook/revived_{level}", count, self.step)

    def _save_between(self, epoch: int, board: SummaryWriter) -> None:
        config = self.config
        by_step = config.save_every_batches and self.step % config.save_every_batches == 0
        minutes = (time.monotonic() - self.saved_at) / 60
        if by_step or (config.save_every_minutes and minutes >= config.save_every_minutes):
            self.save(self.output / "checkpoint_latest.pt", epoch)
            self.saved_at = time.monotonic()
        if config.eval_every_batches and self.step % config.eval_every_batches == 0:
            self.validate(epoch, board)

    def _batches(self, epoch: int) -> Any:
        """Return the loader of an epoch: a new one each time, as stages differ in shape."""
        config = self.config
        length, size = curriculum.plan(config, epoch)
        seconds = self.model.config.padded_samples(round(length * self.sample_rate))
        segments = TrainingSegments(
            self.clips,
            seconds / self.sample_rate,
            self.sample_rate,
            epoch=epoch,
            seed=config.random_seed,
            gain_probability=config.gain_probability,
            gain_db=config.gain_db,
        )
        order = Shuffled(len(segments), config.random_seed, epoch)
        return loader(segments, size, config.num_workers, order)

    def _on_device(self, batch: Segment) -> Segment:
        audio, own = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        pad = self.model.config.padded_samples(audio.shape[-1]) - audio.shape[-1]
        return Segment(*(torch.nn.functional.pad(tensor, (0, pad)) for tensor in (audio, own)))


def _starting_model(config: TrainConfig) -> SNAC:
    if config.model is None:
        assert config.pretrained_model is not None
        return load_model(config.pretrained_model)
    model = SNAC(config.model)
    with torch.no_grad():
        # A first output near zero: a saturated tanh has no slope to learn from.
        last = model.decoder.model[-2]
        last.parametrizations.weight.original0.mul_(0.05)  # type: ignore[union-attr, operator]
    return model


def _floats(terms: dict[str, Tensor]) -> Terms:
    return {name: float(value.detach()) for name, value in terms.items()}


def _write(board: SummaryWriter, split: str, terms: Terms, step: int) -> None:
    for name, value in terms.items():
        board.add_scalar(f"{split}/{name}", value, step)


