"""Warnings about configurations that are legal but rarely intended."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.config.schema import TrainConfig


def advice(config: TrainConfig, total_steps: int) -> Iterator[str]:
    """Yield warnings about a run of ``total_steps``, one sentence each."""
    if config.warmup_steps >= total_steps:
        yield (
            f"warmup_steps {config.warmup_steps} is not less than the {total_steps} steps of the "
            f"run: the learning rate only rises, and never reaches learning_rate "
            f"{config.learning_rate:g} and the cosine after it"
        )
    if config.quantizer_trains and not (config.codebook_weight or config.codebook_decay):
        yield (
            "the quantizer learns, but its codebooks cannot move: codebook_weight and "
            "codebook_decay are both 0"
        )
    if not config.quantizer_trains and config.revive_codes_every:
        yield "revive_codes_every has no effect, as the quantizer does not learn"
