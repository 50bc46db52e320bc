"""The training loop, top to bottom.

snac-trainer train --config trainer/configs/phase10_curriculum.json --device 0
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from snac_core.utils import atomic_files
from snac_core.utils.commands import progress
from trainer.config import TrainConfig
from trainer.config.advice import advice
from trainer.data.fingerprint import fingerprint, same_validation
from trainer.data.loader_processes import ReaderDiedError
from trainer.data.unreadable import Unreadable
from trainer.errors import TrainerError
from trainer.model.network import resumed_model, starting_model
from trainer.runtime import resume, tracker
from trainer.runtime.checkpointing import BEST, LATEST, Writer, of_epoch
from trainer.runtime.distributed import World
from trainer.runtime.metrics import Metrics
from trainer.runtime.profiling import Profiler
from trainer.runtime.progress import Throughput, TrainState, spent
from trainer.runtime.stopping import Stopped, StopRequest, listening
from trainer.training.batches import DeviceTransfer
from trainer.training.epochs import Epochs
from trainer.training.find_data import find_data
from trainer.training.guided_start import check_enough_audio, fit_mel_target
from trainer.training.learner import Learner, Terms
from trainer.training.model_selection import ModelSelection
from trainer.training.remeasure import measure_anew
from trainer.training.validation_sets import validation_sets

log = logging.getLogger(__name__)

SAY_SECONDS = 30.0
"""Between two lines of the log that say how far a run is, where no bar is shown."""


def train(config: TrainConfig, where: World | torch.device) -> Path:
    """Train as ``config`` says and return the path of ``best_model.pt``.

    Writes into ``config.output_dir``: ``config.json``, ``baseline_metrics.json``,
    ``best_model.pt``, ``checkpoint_epoch{N}.pt``, ``checkpoint_latest.pt``, ``metrics.csv``,
    ``unreadable.csv`` and TensorBoard logs under ``logs/``. On SIGTERM or SIGINT it writes
    ``checkpoint_latest.pt`` and returns, whether or not there is a best model yet.

    Parameters
    ----------
    config
        What to do. With ``resume``, it goes on as if the run had never stopped.
    where
        The processes that train together, or the device to train on alone.

    Raises
    ------
    SnacError
        When the configuration, the data or the base model cannot be used, the loss is no
        longer a number, or a last checkpoint could not be written.
    """
    world = where if isinstance(where, World) else World(where)
    torch.manual_seed(config.random_seed)
    with (
        listening() as stop,
        # Where it says fp32 it is fp32, but in steps that are allowed TF32.
        torch.backends.cudnn.flags(
            enabled=True, benchmark=config.cudnn_benchmark, allow_tf32=False
        ),
        # On a CPU, a backward pass in this thread finds the memory that forward freed.
        torch.autograd.set_multithreading_enabled(False),
        Writer(config.keep_checkpoints) as writer,
        contextlib.closing(
            TrainingRun(config, world, writer, stop, resume.read(config, world))
        ) as run,
    ):
        try:
            run.measure_base()
            while not run.finished:
                run.train_epoch()
        except Stopped:
            run.save(LATEST)
            command = f"snac-trainer train --config {run.output}/config.json --resume auto"
            log.info("stopped at step %d; to go on: %s", run.state.step, command)
    return Path(config.output_dir) / BEST


class TrainingRun:
    """One training run.

    Parameters
    ----------
    config, world
        As for `train`.
    writer
        Saves its checkpoints.
    stop
        Whether to stop.
    content
        The checkpoint to go on from; None starts anew.
    """

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        writer: Writer,
        stop: StopRequest,
        content: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.world, self.writer, self.stop = config, world, writer, stop
        self.output = Path(config.output_dir)
        model, base = starting_model(config) if content is None else resumed_model(content, config)
        self.model = model.to(world.device)
        self.sample_rate = model.config.sampling_rate
        unreadable = Unreadable(self.output / "unreadable.csv")
        self.transfer = DeviceTransfer(world, model.config)
        found = find_data(config, world, unreadable)
        self.data = found.training
        self.sets = validation_sets(
            found, config, self.sample_rate, world, self.transfer, unreadable, stop
        )
        self.validation_set = self.sets.main
        self.fingerprint = fingerprint(self.data, *self.sets.clips)
        self.measured_on = {} if content is None else content["run"].get("data", {})
        self._check_same_data()
        self.epochs = Epochs(config, self.data, model.config, world, self.transfer)
        self.total_steps = self.epochs.total_steps
        if content is None:
            check_enough_audio(config, self.epochs, model.config)
        self.learner = Learner(config, self.model, world, resumed=content is not None)
        # Not before all that may be wrong with a run is known, which then has moved nothing.
        if world.main:
            self._prepare_output(anew=content is None)
        world.broadcast_object(None)
        self.state, rows = TrainState(), 0
        if content is not None:
            rows = self._restore(content)
        elif self.learner.mel_target is not None:
            fit_mel_target(self.learner, self.epochs)
        self.metrics = Metrics(
            self.output if world.main else None,
            rows,
            self.state.step,
            tracker.start(config) if world.main else None,
        )
        self.profiler = Profiler(self.output, config.profile_steps if world.main else 0)
        self.selection = ModelSelection(
            self.sets,
            self.learner,
            self.state,
            self.metrics,
            writer,
            self.output,
            base,
            lambda: self.epochs[self.state.epoch].stage,
        )
        for text in advice(config, self.total_steps) if world.main else ():
            log.warning("%s", text)
        self.throughput = Throughput()
        self.saved_at, self.saved_step = time.monotonic(), self.state.step
        self._began = self.saved_at - self.state.seconds
        self.said_at = -SAY_SECONDS
        log.info(
            "%s: %d recordings, %.1f h to train on; %d to validate; %d steps; %d process%s",
            *(config.name, self.data.recordings, self.data.seconds / 3600),
            *(
                len(self.validation_set.clips),
                self.total_steps,
                world.size,
                "es" * (world.size > 1),
            ),
        )

    def measure_base(self) -> None:
        """Measure the base, unless that was done on the same recordings."""
        if self.measured_on and not same_validation(self.measured_on, self.fingerprint):
            measure_anew(self.selection)
        self.selection.baseline()
        self.measured_on = self.fingerprint._asdict()

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to do."""
        return self.state.done and self._no_more_steps

    @property
    def _no_more_steps(self) -> bool:
        """Whether the last step has been taken or training has ended early."""
        state = self.state
        return (
            state.ended_early
            or state.step >= self.total_steps
            or state.epoch > len(self.epochs.all)
        )

    def train_epoch(self) -> None:
        """Take one pass over the training data, or what is left of it, validate, and save.

        Raises
        ------
        Stopped
            Between two steps, or from validation, when any process was asked to stop.
        """
        config, state = self.config, self.state
        epoch = state.epoch
        self._between()
        now = self.epochs[epoch]
        title = f"epoch {epoch}/{len(self.epochs.all)} {now.plan.length:g} s"
        steps, disable = now.steps, None if self.world.main else True
        with progress(total=steps, initial=state.batch, desc=title, disable=disable) as bar:
            self._take_steps(steps, bar)
        if state.validated_at != state.step:
            self._validate()
        if state.batch >= steps:
            state.epoch, state.batch, state.reading = epoch + 1, 0, []
        state.done = self._no_more_steps
        if state.done or epoch % config.save_every == 0:
            self.save(of_epoch(epoch))

    def _take_steps(self, steps: int, bar: Any) -> None:
        """Learn from what is left of the epoch's ``steps`` batches."""
        config, state = self.config, self.state
        if state.batch >= steps or self._no_more_steps:
            return
        batches = self.epochs.rest(state.epoch, state.batch, state.reading)
        iterator = iter(batches)
        self.model.train()
        while state.batch < steps and not self._no_more_steps:
            started = time.perf_counter()
            reading = batches.state_dict()
            stop, save = self._agreed(self.stop.requested, self._save_is_due())
            if stop or save:
                state.reading = self.world.gather(reading)
            if stop:
                raise Stopped
            if save:
                self.save(LATEST)
            try:
                batch, present, audio_seconds = self.epochs.next(iterator)
            except ReaderDiedError:
                state.reading = self.world.gather(reading)
                self.save(LATEST)
                raise
            state.batch += 1
            bar.update()
            if not present:
                continue
            try:
                terms = self.learner.step(batch, state.step, self.total_steps)
            except TrainerError:
                # Bad steps moved nothing, and all processes are here: what was learnt is kept.
                state.reading = self.world.gather(batches.state_dict())
                self.save(LATEST)
                raise
            state.step += 1
            self.throughput.add(audio_seconds, time.perf_counter() - started)
            self.profiler.step()
            if state.step % config.log_every == 0:
                self._log(terms, bar)
            self._keep_codebooks()
            if self._due(config.save_every_batches) or self._due(config.eval_every_batches):
                state.reading = self.world.gather(batches.state_dict())
                self._between()
        state.reading = self.world.gather(batches.state_dict())

    def _log(self, terms: Terms | None, bar: Any) -> None:
        speed = self.throughput.read()
        if terms is None:
            return
        left = tqdm.format_interval(self.throughput.left(self.total_steps - self.state.step))
        figures = {"loss": f"{terms['loss']:.3f}", "audio_s_per_s": f"{speed:.1f}"}
        bar.set_postfix(**figures, run_left=left)
        if bar.disable and self.world.main and time.monotonic() - self.said_at >= SAY_SECONDS:
            self.said_at = time.monotonic()
            log.info(
                "epoch %d, step %d of %d: loss %s, %s audio-seconds a second, %s left",
                *(self.state.epoch, self.state.step, self.total_steps),
                *(*figures.values(), left),
            )
        cost = {"audio_seconds_per_second": speed} | spent(self._began, self.world.device)
        self.metrics.write(
            "train",
            terms | cost,
            step=self.state.step,
            epoch=self.state.epoch,
            stage=self.epochs[self.state.epoch].stage,
        )

    def _due(self, every: int | None) -> bool:
        return bool(every) and self.state.step > 0 and self.state.step % int(every or 1) == 0

    def _between(self) -> None:
        """Validate and save where a step asks for it, unless that was done before a stop."""
        step = self.state.step
        if self._due(self.config.eval_every_batches) and self.state.validated_at != step:
            self._validate()
        if self._due(self.config.save_every_batches) and self.saved_step != step:
            self.save(LATEST)

    def _validate(self) -> None:
        try:
            self.selection.validate()
        except TrainerError:
            # What was learnt is not lost with the recordings to measure it on.
            self.save(LATEST)
            raise

    def _save_is_due(self) -> bool:
        if self.stop.save_requested:
            self.stop.save_requested = False
            return True
        every = self.config.save_every_minutes
        return (
            self.world.main
            and every is not None
            and time.monotonic() - self.saved_at >= 60 * every
            and self.state.step > self.saved_step
        )

    def _agreed(self, *flags: bool) -> list[bool]:
        """Return which flags any process has set."""
        return [bool(count) for count in self.world.sum(torch.tensor(flags).int())]

    def save(self, name: str) -> None:
        """Save all that the run depends on as ``name``; every process calls this."""
        self.saved_at, self.saved_step = time.monotonic(), self.state.step
        self.state.seconds = self.saved_at - self._began
        generators = resume.random_states(self.world)
        if not self.world.main:
            return
        learner = self.learner.state_dict()
        contents = self.selection.contents() | {
            "model": self.model.state_dict(),
            "metrics": {},
            "optimizer": learner["optimizer"],
            "best": self.state.best,
            "run": {
                "progress": self.state.state_dict(),
                "learner": {key: learner[key] for key in learner if key != "optimizer"},
                "random": generators,
                "rows": self.metrics.rows,
                "data": self.measured_on,
            },
        }
        self.writer.save(self.output / name, contents)

    def close(self) -> None:
        """Close the files."""
        self.profiler.close()
        self.metrics.close()

    def _restore(self, content: Mapping[str, Any]) -> int:
        """Go on from a checkpoint; return how many rows its table had."""
        run = content["run"]
        self.state.load_state_dict(run["progress"])
        # The patience may be another now.
        self.state.check_patience(self.config.early_stop_patience)
        if content["train_config"]["batch_size"] != self.config.batch_size:
            self.epochs.rescale(self.state, content["train_config"]["batch_size"])
        self.learner.load_state_dict({**run["learner"], "optimizer": content["optimizer"]})
        resume.set_random_states(run["random"], self.world)
        return int(run["rows"])

    def _prepare_output(self, anew: bool) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        if anew:
            resume.set_aside(self.output)
            (self.output / "unreadable.csv").unlink(missing_ok=True)
        text = json.dumps(self.config.to_dict(), indent=2) + "\n"
        atomic_files.replace(self.output / "config.json", text.encode())

    def _check_same_data(self) -> None:
        seen = (*self.fingerprint, len(self.validation_set.clips))
        if len(everyone := set(self.world.gather(seen))) > 1:
            raise TrainerError(
                f"the processes do not see the same recordings (to train on, their seconds, to "
                f"validate): {sorted(everyone)}"
            )

    def _keep_codebooks(self) -> None:
        config, every, step = self.config, self.config.revive_codes_every, self.state.step
        if not (config.quantizer_trains and every) or step % every:
            return
        use = self.learner.codebook_usage
        for level, perplexity in enumerate(use.perplexities()):
            self.metrics.scalar(f"codebook/perplexity_{level}", perplexity, step)
        # The last fifth is left alone, so that every entry has settled in the end.
        if step < 0.8 * self.total_steps:
            for level, count in enumerate(use.revive(self.learner.optimizer)):
                self.metrics.scalar(f"codebook/revived_{level}", count, step)
