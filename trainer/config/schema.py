"""The training configuration: all keys in one object, and the rules that relate them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from trainer.config import keys


class TrainConfig(
    keys.Computing,
    keys.Saving,
    keys.Validation,
    keys.Weights,
    keys.Discriminators,
    keys.Losses,
    keys.Data,
    keys.Schedule,
    keys.Run,
):
    """Everything that decides a training run; each key is described in `trainer.config.keys`."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if wrong := list(self._conflicts()):
            raise ValueError("; ".join(wrong))
        return self

    def _conflicts(self) -> Iterator[str]:
        if (self.pretrained_model is None) == (self.model is None):
            yield (
                "give either pretrained_model (fine-tune it) or model (train that shape from "
                "random weights), one of the two"
            )
        if self.guided_steps and self.model is None:
            yield (
                "guided_steps begins by replacing the codebooks of the pretrained_model; it is "
                "for a model from random weights"
            )
        if self.guided_steps and (self.loss_balancer or self.freeze_encoder or self.freeze_vq):
            yield "guided_steps goes with none of loss_balancer, freeze_encoder and freeze_vq"
        if self.guided_steps and self.bucket_by_length:
            yield (
                "guided_steps is fitted to segments of one length: it does not go with "
                "bucket_by_length"
            )
        if not self.l1_weight + self.stft_weight + self.mel_weight:
            yield "one of l1_weight, stft_weight and mel_weight must be above 0"
        if len(self.mel_bins) != len(self.mel_n_ffts):
            yield (
                f"mel_bins {list(self.mel_bins)} needs one number for each of "
                f"mel_n_ffts {list(self.mel_n_ffts)}"
            )
        if self.gradient_checkpointing and self.kernels == "on":
            yield (
                "gradient_checkpointing is for PyTorch's layers, and kernels is on: set one of the "
                "two to another value"
            )
        if self.best_metric in ("l1", "stft", "mel") and not getattr(
            self, f"{self.best_metric}_weight"
        ):
            yield (
                f"best_metric {self.best_metric!r} is a term of the loss that is not computed: "
                f"{self.best_metric}_weight is 0"
            )
        if unknown := sorted(set(self.gate_sets) - self.val_sets.keys()):
            yield f"gate_sets names {', '.join(unknown)}, which val_sets does not have"
        if self.discriminator_checkpoint is not None and not self.adversarial:
            yield (
                "discriminator_checkpoint is given, but there are no discriminators: "
                "adversarial_weight and feature_weight are both 0"
            )
        if self.adversarial and not (self.discriminator_periods or self.discriminator_n_ffts):
            yield (
                "discriminator_periods and discriminator_n_ffts are both empty: name at least one "
                "discriminator, or set adversarial_weight and feature_weight to 0"
            )
        yield from self._wrong_stages()

    def _wrong_stages(self) -> Iterator[str]:
        if len({stage.steps is None for stage in self.curriculum}) > 1:
            yield "the curriculum's stages must all have epochs, or all have steps"
            return
        for before, after in pairwise(self.curriculum):
            if before.epochs and after.epochs and after.epochs[0] <= before.epochs[1]:
                yield (
                    f"the curriculum's stages must follow each other: {list(after.epochs)} comes "
                    f"after {list(before.epochs)}"
                )

    @property
    def quantizer_trains(self) -> bool:
        """Whether codebooks learn from what the encoder makes."""
        return not (self.freeze_vq or self.guided_steps)

    @property
    def token_space_changes(self) -> bool:
        """Whether training changes what makes codes: the encoder or the quantizer."""
        return not (self.freeze_encoder and self.freeze_vq)

    @property
    def adversarial(self) -> bool:
        """Whether discriminators take part."""
        return bool(self.adversarial_weight or self.feature_weight)

    @property
    def name(self) -> str:
        """Experiment name."""
        return self.experiment_name or Path(self.output_dir).name

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping that `parse` reads back."""
        return self.model_dump(mode="json")
