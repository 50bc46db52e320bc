"""What a configuration may ask of a run besides what it learns."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.commands import rows
from tests.trainer.conftest import everything_at_once, record
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.model.network import reconstruct
from trainer.model.recomputed import Recomputed
from trainer.runtime.checkpointing import Writer
from trainer.runtime.distributed import World
from trainer.runtime.stopping import StopRequest
from trainer.training.dry_run import plan
from trainer.training.loop import TrainingRun, train

CPU = torch.device("cpu")


@contextmanager
def running(settings: dict[str, Any], **changes: Any) -> Iterator[TrainingRun]:
    config = configuration.parse({**settings, **changes})
    torch.manual_seed(config.random_seed)
    with Writer() as writer, closing(TrainingRun(config, World(CPU), writer, StopRequest())) as run:
        yield run


def first_gradients(run: TrainingRun) -> dict[str, torch.Tensor]:
    batch = run.epochs.next(iter(run.epochs.batches(1)))[0]
    run.learner.step(batch, 0, 9)
    return {
        name: weight.grad
        for name, weight in run.model.named_parameters()
        if weight.grad is not None
    }


def test_gradients_are_the_same_with_less_kept(settings: dict[str, Any]) -> None:
    settings |= everything_at_once() | {"kernels": "off"}
    kept: list[int] = []
    found = []
    for checkpointing in (False, True):
        with running(settings, gradient_checkpointing=checkpointing) as run:
            found.append(first_gradients(run))
            batch = run.epochs.next(iter(run.epochs.batches(1)))[0]
            context = batch.context(run.model.config, batch.noise(0))
            layers = Recomputed(run.model) if checkpointing else None
            sizes: dict[int, int] = {}

            def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = reconstruct(run.model, batch.audio, run.config, context, layers)
            kept.append(sum(sizes.values()))
            del out
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)
    assert kept[1] < 0.6 * kept[0]
    with pytest.raises(TrainerError, match="gradient_checkpointing is for PyTorch's layers"):
        configuration.parse({**settings, "gradient_checkpointing": True, "kernels": "on"})


def test_tf32_is_for_what_learns(settings: dict[str, Any]) -> None:
    seen: dict[str, tuple[bool, str]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, *_: Any) -> None:
            how = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
            seen[name] = how

        return hook

    full, tf32 = (False, "highest"), (True, "high")
    for frozen, encoder in ((True, full), (False, tf32)):
        changes = {"freeze_encoder": frozen, "freeze_vq": frozen, "kernels": "off"}
        with running(settings, allow_tf32=True, **changes) as run:
            for name in ("encoder", "quantizer", "decoder"):
                run.model.get_submodule(name).register_forward_pre_hook(note(name))
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                first_gradients(run)
                assert seen == {"encoder": encoder, "quantizer": full, "decoder": tf32}
                run.validation_set.measure(run.model)
        assert set(seen.values()) == {full}


def test_discriminators_of_an_earlier_run_go_on_and_learn_now_and_then(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= everything_at_once() | {"max_steps": 2, "num_epochs": 1, "sample_clips": 0}
    train(configuration.parse(settings), CPU)
    earlier = Path(settings["output_dir"]) / "checkpoint_epoch1.pt"
    learnt = torch.load(earlier, weights_only=True)["run"]["learner"]
    settings |= {"output_dir": str(tmp_path / "on"), "discriminator_warmup_steps": 0}
    settings |= {"discriminator_checkpoint": str(earlier), "discriminator_every": 2}
    with running(settings) as run:
        mine = run.learner.discriminators
        assert mine is not None
        batch = run.epochs.next(iter(run.epochs.batches(1)))[0]
        before = {name: value.clone() for name, value in mine.state_dict().items()}
        torch.testing.assert_close(before, dict(learnt["adversary"]), rtol=0, atol=0)
        assert run.learner.discriminator_optimizer.state_dict()["state"][0]["step"] == 2
        terms = run.learner.step(batch, 1, 9)
        assert terms is not None
        assert "adversarial" in terms
        assert "discriminator" not in terms
        torch.testing.assert_close(dict(mine.state_dict()), before, rtol=0, atol=0)
        terms = run.learner.step(batch, 2, 9)
        assert terms is not None
        assert "discriminator" in terms
        assert any(not torch.equal(mine.state_dict()[name], before[name]) for name in before)
    assert "adversary" not in plan(configuration.parse(settings))
    for changes, said in (
        ({"discriminator_periods": [3, 5]}, "are not those that the configuration describes"),
        ({"discriminator_checkpoint": str(earlier.with_name("best_model.pt"))}, "has no discrim"),
    ):
        for attempt in (plan, lambda config: train(config, CPU)):
            with pytest.raises(TrainerError, match=said):
                attempt(configuration.parse({**settings, **changes}))
    with pytest.raises(TrainerError, match="but there are no discriminators"):
        configuration.parse({**settings, "adversarial_weight": 0.0, "feature_weight": 0.0})


def test_learning_rate_and_batch_change_on_the_way_and_the_optimizer_stays(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        record(tmp_path / "data" / f"{number}.wav", 0.5, seed=number)
    settings |= {"train_data": str(tmp_path / "data"), "log_every": 1, "lr_min_ratio": 1.0}
    settings |= {"save_every_batches": 2, "max_steps": 2}
    train(configuration.parse(settings), CPU)
    output = Path(settings["output_dir"])
    changes = {"learning_rate": 5e-4, "batch_size": 4, "max_steps": 3, "resume": "auto"}
    seen: list[Any] = []

    class Noting(TrainingRun):
        def _restore(self, content: Mapping[str, Any]) -> int:
            kept = super()._restore(content)
            seen.append(int(self.learner.optimizer.state_dict()["state"][0]["step"]))
            seen.append((self.state.epoch, self.state.batch))
            return kept

    from trainer.training import loop

    before, loop.TrainingRun = loop.TrainingRun, Noting  # type: ignore[misc]
    try:
        train(configuration.parse({**settings, **changes}), CPU)
    finally:
        loop.TrainingRun = before  # type: ignore[misc]
    assert "batch_size 2 -> 4, max_steps 2 -> 3, learning_rate 0.001 -> 0.0005" in caplog.text
    # Two batches of two are one of four.
    assert seen == [2, (1, 1)]
    last = [row for row in rows(output) if row["split"] == "train"][-1]
    assert (last["step"], last["learning_rate"]) == ("3", "0.0005")

    stages = [{"steps": 3, "length": 0.17}, {"steps": 4, "length": 0.34}]
    settings |= {"curriculum": stages, "num_epochs": 99, "max_steps": None, "sample_clips": 0}
    with running(settings, output_dir=str(tmp_path / "by_steps"), batch_size=6) as run:
        run.state.step, run.state.epoch, run.state.batch = 4, 7, 5
        run.epochs.rescale(run.state, 2)
        earlier = sum(epoch.steps for epoch in run.epochs.all[: run.state.epoch - 1])
        assert earlier + run.state.batch == 4
        assert run.state.batch < run.epochs[run.state.epoch].steps


def test_stages_by_step_train_for_so_many(settings: dict[str, Any], tmp_path: Path) -> None:
    stages = [
        {"steps": 8, "length": 0.17, "batch_multiplier": 1.0},
        {"steps": 2, "length": 0.34, "batch_multiplier": 0.5},
    ]
    settings |= {"curriculum": stages, "num_epochs": 99, "max_steps": None, "log_every": 1}
    settings["batch_size"] = 8
    train(configuration.parse(settings), CPU)
    table = [row for row in rows(Path(settings["output_dir"])) if row["split"] == "train"]
    # An epoch has 48 segments of the first stage.
    assert [row["epoch"] for row in table] == ["1"] * 6 + ["2"] * 2 + ["3"] * 2
    assert [row["stage"] for row in table] == ["1"] * 8 + ["2"] * 2
    text = plan(configuration.parse(settings))
    assert "epochs 2-2: 0.17 s x 8, 2 steps per epoch" in text
    assert "steps: 10" in text


class Told:
    """A tracker that writes down what it is told."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.path = Path(config["output_dir"]) / "told.jsonl"
        self.lines: list[Any] = [name]

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.lines.append((step, dict(values)))
        if step == 2:
            raise ConnectionError("nobody listens")

    def close(self) -> None:
        self.path.write_text(json.dumps(self.lines))


def test_other_sets_are_measured_told_and_may_decide(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        record(tmp_path / "general" / f"{number}.wav", 0.4, seed=50 + number)
    settings |= {"val_sets": {"general": str(tmp_path / "general")}, "log_every": 1}
    settings |= {"best_metric": "si_sdr", "tracker": f"{__name__}:Told", "profile_steps": 1}
    settings |= {"max_steps": 4, "publish_to": str(tmp_path / "store"), "gate_sets": ["general"]}
    with caplog.at_level(logging.INFO):
        best = train(configuration.parse(settings), CPU)
    output = Path(settings["output_dir"])
    table = rows(output)
    assert [row["split"] for row in table if row["step"] == "0"] == ["val", "val:general"]
    general = [float(row["loss"]) for row in table if row["split"] == "val:general"]
    base = json.loads((output / "baseline_metrics.json").read_text())
    assert base["sets"]["general"]["loss"] == general[0] != base["val_loss"]
    si_sdr = [float(row["si_sdr"]) for row in table if row["split"] == "val"]
    content = torch.load(best, weights_only=True)
    assert content["metrics"]["val_si_sdr"] == max(si_sdr[1:])
    last = torch.load(output / "checkpoint_epoch1.pt", weights_only=True)
    assert last["best"] == -max(si_sdr[1:])
    assert last["run"]["progress"]["seconds"] > 0
    known = last["run"]["progress"]["known"]
    assert all(len(figures["loss:general"]) == 3 for figures in known.values())
    train_rows = [float(row["wall_seconds"]) for row in table if row["split"] == "train"]
    assert train_rows == sorted(train_rows)

    name, *told = json.loads((output / "told.jsonl").read_text())
    assert name == "run"
    assert [step for step, _ in told] == [int(row["step"]) for row in table]
    assert told[1][1]["val:general/loss"] == general[0]
    assert caplog.text.count("the tracker failed: ConnectionError('nobody listens')") == 1
    (trace,) = (output / "profile").iterdir()
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert f" si_sdr {si_sdr[-1]:.4f} general {general[-1]:.4f}" in caplog.text


def test_what_a_run_may_not_be_asked(settings: dict[str, Any]) -> None:
    for changes, said in (
        ({"gate_sets": ["general"]}, "gate_sets names general, which val_sets does not have"),
        ({"best_metric": "mel"}, "mel_weight is 0"),
        ({"val_sets": {"a b": "x"}}, "val_sets"),
        ({"best_metric": "beauty"}, "best_metric must be 'loss'"),
    ):
        with pytest.raises(TrainerError, match=said):
            configuration.parse({**settings, **changes})
    for name in ("comet", "no_such_module:Tracker"):
        with pytest.raises(TrainerError, match=f"tracker '{name}' does not start"):
            train(configuration.parse({**settings, "tracker": name}), CPU)
    assert not (Path(settings["output_dir"]) / "best_model.pt").exists()
