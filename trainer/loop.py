"""The training loop, top to bottom.

snac-trainer train --config trainer/configs/phase10_curriculum.json --device 0
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from snac_core.errors import StoreError
from snac_core.extent import Extent, Noise
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
    readable,
    scan,
)
from trainer.errors import TrainerError
from trainer.losses import Losses
from trainer.metrics import Metrics
from trainer.network import reconstruct, starting_model
from trainer.publish import publish

log = logging.getLogger(__name__)

Terms = dict[str, float]

BEST = "best_model.pt"
LATEST = "checkpoint_latest.pt"
LOG_EVERY = 10


def train(config: TrainConfig, device: torch.device) -> Path:
    """Train as ``config`` says and return the path of ``best_model.pt``.

    Writes into ``config.output_dir``: ``config.json``, ``baseline_metrics.json``,
    ``best_model.pt``, ``checkpoint_epoch{N}.pt``, ``checkpoint_latest.pt``, ``metrics.csv``
    and TensorBoard logs under ``logs/``.

    Raises
    ------
    SnacError
        When the configuration, the data or the base model cannot be used, or the loss is
        no longer a number.
    KeyboardInterrupt
        When interrupted, having written ``checkpoint_latest.pt``.
    """
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    torch.manual_seed(config.random_seed)
    with (
        contextlib.closing(Metrics(output)) as metrics,
        # Where it says fp32 it is fp32: TF32 would give the decoder other codes to learn from.
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        # On a CPU, a backward pass in this thread finds the memory that forward freed.
        torch.autograd.set_multithreading_enabled(False),
    ):
        run = Run(config, device, output, metrics)
        run.baseline()
        try:
            for epoch in range(1, config.num_epochs + 1):
                run.train_epoch(epoch)
                last = run.finished or epoch == config.num_epochs
                if last or epoch % config.save_every == 0:
                    run.save(output / f"checkpoint_epoch{epoch}.pt")
                run.validate()
                if last:
                    break
        except KeyboardInterrupt:
            run.save(output / LATEST)
            log.info("interrupted at step %d; saved %s", run.step, output / LATEST)
            raise
    return output / BEST


class Run:
    """The state of one training run."""

    def __init__(
        self, config: TrainConfig, device: torch.device, output: Path, metrics: Metrics
    ) -> None:
        self.config, self.device, self.output, self.metrics = config, device, output, metrics
        model, self.base_version = starting_model(config)
        self.model = model.to(device)
        self.sample_rate = self.model.config.sampling_rate
        self.reconstruct = torch.compile(reconstruct) if config.compile else reconstruct
        self.losses = Losses(config, self.sample_rate).to(device)
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.use = CodebookUse(self.model.quantizer, config.random_seed)
        self.clips = scan(config.train_data)
        self.val_clips = scan(config.val_data)
        self.step, self.epoch, self.skipped = 0, 0, 0
        self.best, self.baseline_loss = math.inf, math.nan
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

    def baseline(self) -> None:
        """Measure the untouched base model on every stage's segment length, and write it down."""
        epochs = range(1, self.config.num_epochs + 1)
        lengths = {curriculum.plan(self.config, epoch).length for epoch in epochs}
        stages = {f"{length:g}": self.evaluate(length) for length in sorted(lengths)}
        fixed = stages[f"{curriculum.longest(self.config).length:g}"]
        self.baseline_loss = fixed["loss"]
        report = {"val_loss": fixed["loss"], "fixed": fixed, "stages": stages}
        (self.output / "baseline_metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        self.metrics.write("val", fixed, self.step, self.epoch)
        log.info("baseline val_loss %.4f", fixed["loss"])

    def train_epoch(self, epoch: int) -> None:
        """Take one pass over the training data, or what is left of ``max_steps``."""
        self.epoch = epoch
        batches = self._batches(epoch)
        steps = min(len(batches), self.total_steps - self.step)
        length = curriculum.plan(self.config, epoch).length
        title = f"epoch {epoch}/{self.config.num_epochs} {length:g} s"
        progress = tqdm(islice(batches, steps), title, steps)
        self.model.train()
        started = time.perf_counter()
        for loaded in progress:
            batch = self._on_device(loaded)
            if not len(batch.audio):
                continue
            if self.config.model is not None and self.step == self.config.quantizer_warmup_steps:
                self._draw_codebooks()
            terms = self.train_step(batch)
            seconds = time.perf_counter() - started
            speed = batch.audio.numel() / self.sample_rate / seconds
            progress.set_postfix(loss=f"{terms['loss']:.3f}", audio_s_per_s=f"{speed:.1f}")
            if self.step % LOG_EVERY == 0:
                terms["audio_seconds_per_second"] = speed
                self.metrics.write("train", terms, self.step, epoch)
            self._keep_codebooks()
            self._save_between()
            started = time.perf_counter()

    def train_step(self, batch: Segment) -> Terms:
        """Take one step and return its loss terms, learning rate and gradient norm.

        Raises
        ------
        TrainerError
            When the gradient is not finite; the weights are then as before.
        """
        rate = curriculum.learning_rate(self.config, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        quantize = self.step >= self.config.quantizer_warmup_steps
        out = self.reconstruct(self.model, batch.audio, self.config, quantize)
        losses = self.losses(out, batch.audio, batch.own)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip or math.inf)
        if not torch.isfinite(norm):
            raise TrainerError(
                f"the gradient is {float(norm)} and the loss {_floats(losses)['loss']} at step "
                f"{self.step}: a lower learning_rate, a longer warm-up or a grad_clip may help"
            )
        self.optimizer.step()
        self.step += 1
        if self.config.quantizer_trains and quantize:
            self.use.observe(out.levels)
            if self.config.codebook_decay:
                self.use.follow(out.levels, self.config.codebook_decay)
        return _floats(losses) | {"learning_rate": rate, "gradient_norm": float(norm)}

    @torch.no_grad()
    def evaluate(self, seconds: float) -> Terms:
        """Return the mean loss terms over fixed segments of ``seconds``, with seeded noise.

        Raises
        ------
        TrainerError
            When none of the segments can be read, or the loss is not finite.
        """
        config = self.config
        segments = ValidationSegments(
            self.val_clips, seconds, self.sample_rate, config.val_segments, config.random_seed
        )
        size = config.eval_batch_size or curriculum.longest(config).batch
        totals: Terms = {}
        count = 0
        self.model.eval()
        for batch in loader(segments, size, config.num_workers):
            audio, own = self._on_device(batch)
            if not len(audio):
                continue
            # Each segment has noise of its own, the same every time.
            seeds = torch.arange(count, count + len(audio), device=self.device)
            noise = Noise(seeds, torch.zeros_like(seeds))
            extent = Extent(audio.shape[-1], self._own_frames(own), noise)
            terms = _floats(self.losses(self.model(audio, extent), audio, own))
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * len(audio)
            count += len(audio)
        self.model.train()
        if not count:
            raise TrainerError(f"none of the recordings in {config.val_data} can be read")
        if not math.isfinite(totals["loss"]):
            raise TrainerError(f"the validation loss is {totals['loss']} at step {self.step}")
        return {name: value / count for name, value in totals.items()}

    def validate(self) -> None:
        """Measure on the fixed set; keep, and publish, the model when it is the best so far."""
        terms = self.evaluate(curriculum.longest(self.config).length)
        self.metrics.write("val", terms, self.step, self.epoch)
        better = terms["loss"] < self.best
        log.info("step %d val_loss %.4f%s", self.step, terms["loss"], " (best)" if better else "")
        if not better:
            return
        self.best = terms["loss"]
        metrics = {
            "baseline_val_loss": self.baseline_loss,
            "best_val_loss": self.best,
            "improvement": 1.0 - self.best / self.baseline_loss,
            **{f"val_{name}": value for name, value in terms.items() if name != "loss"},
        }
        self.save(self.output / BEST, metrics)
        if self.config.publish_to is not None:
            self._publish(Path(self.config.publish_to))

    def _publish(self, store: Path) -> None:
        if self.best >= self.baseline_loss:
            log.info("not published: no better than the model that the run started from")
            return
        try:
            log.info("published %s to %s", publish(self.output / BEST, store), store)
        except StoreError as error:
            # A store that is full or away for a while is no reason to lose a day's training.
            log.error("not published: %s", error)

    def save(self, path: Path, metrics: dict[str, Any] | None = None) -> None:
        """Write a checkpoint; the best one holds no optimizer, as it is not resumed from."""
        best = metrics is not None
        save(
            path,
            {
                "config": self.model.config.to_dict(),
                "model": self.model.state_dict(),
                "metrics": metrics or {},
                "train_config": self.config.to_dict(),
                "base": self.base_version,
                "epoch": self.epoch,
                "step": self.step,
                **({} if best else {"optimizer": self.optimizer.state_dict(), "best": self.best}),
            },
        )

    def _draw_codebooks(self) -> None:
        """Give the codebooks of a model from random weights entries that its latents use."""
        batches = (self._on_device(batch).audio for batch in islice(self._batches(1), 24))
        draw_from_encoder(self.model, batches, self.use)

    def _keep_codebooks(self) -> None:
        config, every = self.config, self.config.revive_codes_every
        if not (config.quantizer_trains and every) or self.step % every:
            return
        if self.step <= config.quantizer_warmup_steps:
            return
        for level, perplexity in enumerate(self.use.perplexities()):
            self.metrics.scalar(f"codebook/perplexity_{level}", perplexity, self.step)
        # The last fifth is left alone, so that every entry has settled in the end.
        if self.step < 0.8 * self.total_steps:
            for level, count in enumerate(self.use.revive()):
                self.metrics.scalar(f"codebook/revived_{level}", count, self.step)

    def _save_between(self) -> None:
        config = self.config
        by_step = config.save_every_batches and self.step % config.save_every_batches == 0
        minutes = (time.monotonic() - self.saved_at) / 60
        if by_step or (config.save_every_minutes and minutes >= config.save_every_minutes):
            self.save(self.output / LATEST)
            self.saved_at = time.monotonic()
        if config.eval_every_batches and self.step % config.eval_every_batches == 0:
            self.validate()

    def _batches(self, epoch: int) -> DataLoader[Segment]:
        """Return the loader of an epoch: a new one each time, as stages differ in shape."""
        config = self.config
        length, size = curriculum.plan(config, epoch)
        # Whole frames, so that nothing of a segment is padding.
        samples = self.model.config.padded_samples(round(length * self.sample_rate))
        segments = TrainingSegments(
            self.clips,
            samples / self.sample_rate,
            self.sample_rate,
            epoch=epoch,
            seed=config.random_seed,
            gain_probability=config.gain_probability,
            gain_db=config.gain_db,
        )
        order = Shuffled(len(segments), config.random_seed, epoch)
        return loader(segments, size, config.num_workers, order)

    def _on_device(self, batch: Segment) -> Segment:
        """Return what could be read of a batch, padded to whole frames; count what could not."""
        usable = readable(batch)
        if skipped := len(batch.audio) - len(usable.audio):
            self.skipped += skipped
            log.warning("%d segments left out so far, as they cannot be read", self.skipped)
        pad = self.model.config.padded_samples(batch.audio.shape[-1]) - batch.audio.shape[-1]
        return Segment(
            *(
                torch.nn.functional.pad(tensor.to(self.device, non_blocking=True), (0, pad))
                for tensor in usable
            )
        )

    def _own_frames(self, own: Tensor) -> Tensor | None:
        """Return Tensor[B]: samples of the frames that each segment has without its padding."""
        multiple = self.model.config.pad_multiple
        samples = (own.sum(dim=(1, 2)).long() + multiple - 1) // multiple * multiple
        return None if samples.min() == own.shape[-1] else samples


def _floats(terms: dict[str, Tensor]) -> Terms:
    return {name: float(value.detach()) for name, value in terms.items()}
