"""A training step of ours against a plain loop around the published package, in turns.

    python bench/training.py [--device cpu] [--rounds 3] [--threads N] [--clock wall] [--compiled]
                             [--cases starter decoder adversarial 24khz]

The same weights, segments, losses and optimizer for both, in fp32; the plain loop is what one
would write around `snac`: forward, losses, backward, clipping, AdamW. Our layers as written are a
second peer and, with ``--compiled``, those by `torch.compile` a third. Further rows are of our own
loop alone: with discriminators, kernels against layers as written. Then a step of the starter is
taken apart, on a CPU. Prints Markdown, and writes ``bench/results/training-<device>.json`` and
``.md``.

On a busy machine, ``--threads 1 --clock cpu`` counts this process's own time alone. With
``--device cuda`` the same runs on a GPU, where there are no kernels. ``--rehearse`` runs all of it
for a tiny model, to see that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import snac
import torch
from measuring import CLOCKS, Row, clips, faster, in_turns, save, table
from torch import Tensor

from snac_core.config import PRESETS, SnacConfig
from snac_core.model import Reconstruction
from snac_core.store.weights import build
from snac_core.utils.malloc import restart_keeping_freed_memory
from trainer import config as configuration
from trainer.config import TrainConfig
from trainer.losses.losses import Losses
from trainer.model.network import frozen
from trainer.runtime.distributed import World
from trainer.training.batches import Batch
from trainer.training.learner import Learner

PLAIN, WRITTEN, COMPILED = "plain loop around snac", "our layers as written", "torch.compile"
STARTER = SnacConfig(
    encoder_dim=16, encoder_rates=(8, 8, 4, 2), decoder_dim=384, decoder_rates=(2, 4, 8, 8)
)
TINY = SnacConfig(
    encoder_dim=4, encoder_rates=(2, 2), decoder_dim=16, decoder_rates=(2, 2), codebook_size=64
)
SETTINGS: dict[str, Any] = {
    **{"pretrained_model": "the published one", "train_data": "", "val_data": ""},
    **{"output_dir": "", "batch_size": 4, "num_epochs": 1, "num_workers": 0},
    **{"learning_rate": 1e-4, "weight_decay": 1e-4, "grad_clip": 1.0},
    **{"stft_window": "hann", "n_ffts": [512, 1024, 2048], "l1_weight": 0.0, "mel_weight": 1.0},
    # The published model says nothing of what its quantizer found, so no loss looks there.
    **{"commitment_weight": 0.0, "codebook_weight": 0.0},
}
ADVERSARIAL: dict[str, Any] = {
    **{"adversarial_weight": 1.0, "feature_weight": 1.0, "discriminator_fft_channels": 8},
    **{"discriminator_periods": [2], "discriminator_period_channels": [4, 8]},
}
DECODER: dict[str, Any] = {"freeze_encoder": True, "freeze_vq": True}
BAR = 1.5


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained."""

    name: str
    shape: SnacConfig
    segments: int
    seconds: float
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def audio(self) -> float:
        """Seconds of audio in a batch."""
        samples = round(self.seconds * self.shape.sampling_rate)
        return self.segments * self.shape.padded_samples(samples) / self.shape.sampling_rate

    def batch(self, device: torch.device) -> Batch:
        """Return segments of whole frames."""
        samples = self.shape.padded_samples(round(self.seconds * self.shape.sampling_rate))
        longer = self.seconds + 1
        waves = [wave[:samples] for wave in clips(self.segments, longer, longer)]
        audio = torch.stack([torch.from_numpy(wave)[None] for wave in waves]).to(device)
        return Batch(audio, torch.ones_like(audio), torch.arange(len(audio), device=device))

    def published(self) -> snac.SNAC:
        """Return the published package's model, with the same weights each time."""
        torch.manual_seed(0)
        return snac.SNAC(**self.shape.to_dict())

    def config(self, **changes: Any) -> TrainConfig:
        """Return our configuration."""
        return configuration.parse({**SETTINGS, **self.settings, **changes})


CASES = {
    "starter": Case("starter, 4 segments of 1 s", STARTER, 4, 1.02),
    "decoder": Case("starter, 4 segments of 1 s, its decoder alone", STARTER, 4, 1.02, DECODER),
    "adversarial": Case("starter, 4 segments of 1 s, adversarial", STARTER, 4, 1.02, ADVERSARIAL),
    "24khz": Case("`snac_24khz`, 2 segments of 1 s", PRESETS["snac_24khz"], 2, 1.02),
}


class Ours:
    """Our loop's step."""

    def __init__(self, case: Case, device: torch.device, **changes: Any) -> None:
        config = case.config(**changes)
        model = frozen(build(case.shape, case.published().state_dict()), config)
        torch.manual_seed(0)
        self.learner = Learner(config, model.to(device), World(device))
        self.batch, self.device, self.steps = case.batch(device), device, 0
        self.learner.model.train()

    def __call__(self) -> float:
        """Take a step, and return its loss."""
        terms = self.learner.step(self.batch, self.steps, 1_000_000)
        self.steps += 1
        assert terms is not None
        return terms["loss"]


class Plain:
    """What one would write around the published package."""

    def __init__(self, case: Case, device: torch.device) -> None:
        config = case.config()
        self.model, self.batch = case.published().to(device).train(), case.batch(device)
        if config.freeze_encoder:
            self.model.encoder.requires_grad_(False)
            self.model.quantizer.requires_grad_(False)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.losses = Losses(config, case.shape.sampling_rate).to(device)
        self.optimizer = torch.optim.AdamW(
            self.weights, config.learning_rate, weight_decay=config.weight_decay
        )

    def __call__(self) -> float:
        """Take a step, and return its loss."""
        audio, own, _ = self.batch
        made, _ = self.model(audio)
        loss = self.losses(Reconstruction(made, []), audio, own)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        return float(loss.detach())


def measured(case: Case, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of one case."""
    device = torch.device(options.device)
    steps: dict[str, Callable[[], float]] = {"ours": Ours(case, device)}
    if not case.config().adversarial:
        steps[PLAIN] = Plain(case, device)
    if device.type == "cpu":
        steps[WRITTEN] = Ours(case, device, kernels="off")
    if options.compiled:
        steps[COMPILED] = Ours(case, device, kernels="off", compile=True)
    seconds = in_turns(steps, options.rounds, options.clock)
    for peer in seconds:
        if peer != "ours":
            bar = BAR if peer == PLAIN and device.type == "cpu" else None
            yield faster(case.name, peer, seconds, case.audio, bar)


def parts(step: Ours, clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds of each part of one step of ``step``, without discriminators."""
    learner, batch = step.learner, step.batch
    network: Any = learner.network
    layers = network.layers or learner.model
    context = batch.context(learner.model.config, batch.noise(0))
    times = [clock()]

    def passed(value: Any) -> Any:
        times.append(clock())
        return value

    latent = passed(layers.encoder(batch.audio, context))
    fed, levels = passed(learner.model.quantizer(latent))
    made = passed(layers.decoder(fed, context))
    at_made = made.detach().requires_grad_()
    loss = passed(learner.losses(Reconstruction(at_made, levels), batch.audio, batch.own)["loss"])
    (slope,) = passed(torch.autograd.grad(loss, at_made))
    at_latent: Tensor
    (at_latent, *_) = passed(
        torch.autograd.grad(
            made, [latent, *learner.model.decoder.parameters()], slope, retain_graph=True
        )
    )
    passed(torch.autograd.grad(latent, list(learner.model.encoder.parameters()), at_latent))
    names = (
        *("encoder", "quantizer", "decoder", "losses", "losses, backward"),
        *("quantizer and decoder, backward", "encoder, backward"),
    )
    found = {name: end - begin for name, begin, end in zip(names, times, times[1:], strict=False)}
    started = clock()
    step()
    found["a whole step"] = clock() - started
    rest = found["a whole step"] - sum(found[name] for name in names)
    return found | {"clipping, optimizer, and the rest": max(rest, 0.0)}


def apart(case: Case, options: argparse.Namespace) -> str:
    """Return a table of where a step's time goes on a CPU, in ms for a second of audio."""
    device = torch.device("cpu")
    steps = {"ours": Ours(case, device), WRITTEN: Ours(case, device, kernels="off")}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for turn in range(options.rounds + 1):
        for name, step in steps.items():
            times = parts(step, CLOCKS[options.clock])
            if turn:
                found[name].append(times)
    columns = {
        name: {part: statistics.median(turn[part] for turn in turns) for part in turns[0]}
        for name, turns in found.items()
    }
    lines = [f"| {case.name}: ms for 1 s of audio | {' | '.join(columns)} |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for part in next(iter(columns.values())):
        values = (f"{1e3 * column[part] / case.audio:.1f}" for column in columns.values())
        lines.append(f"| {part} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--compiled", action="store_true", help="with torch.compile, in minutes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rehearse", action="store_true", help="a tiny model")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = {name: CASES[name] for name in options.cases}
    if options.rehearse:
        cases = {name: dataclasses.replace(case, shape=TINY) for name, case in cases.items()}
    device = torch.device(options.device)
    # As the trainer does.
    with torch.autograd.set_multithreading_enabled(False):
        rows: list[Row] = []
        notes, parted = [f"clock: {options.clock} time"], ""
        for case in cases.values():
            rows += measured(case, options)
            print(table(rows[-1:]), file=sys.stderr, flush=True)
        if "starter" in cases and device.type == "cpu":
            parted = apart(cases["starter"], options)
            ours, plain = Ours(cases["starter"], device)(), Plain(cases["starter"], device)()
            difference = "which differ by the decoder's noise"
            notes.append(f"first losses, {difference}: {ours:.4f} and {plain:.4f}")
    save(f"training-{options.device}", rows, notes, {"parts": parted})
    print(f"\n{parted}")
    return 0


if __name__ == "__main__":
    restart_keeping_freed_memory()
    sys.exit(main())
