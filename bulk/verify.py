"""``snac-bulk verify``: whether an output is whole, and its codes those of its recordings."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk.decode import check_token_space, each_shard, row_writer
from bulk.encoder import Encoder
from bulk.output import DONE, Output
from bulk.reading import ReadOptions, read_group
from bulk.sources import Options, Several, find_source
from snac_core.codec import WINDOW_SECONDS
from snac_core.errors import CodesError
from snac_core.store import checkpoint
from snac_core.store.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found.

    Parameters
    ----------
    rows
        Rows that were looked at.
    encoded_again
        Clips whose recordings were encoded again.
    faults
        What is wrong, in words, a line for each row.
    """

    rows: int = 0
    encoded_again: int = 0
    faults: tuple[str, ...] = ()


class Verifier:
    """Looks at shards, in an actor."""

    def __init__(self, model: Checkpoint, device: str, folder: str) -> None:
        self.codec = Encoder(model, device).codec
        self.output = Output(folder)
        self.output.load()
        self.rows = row_writer(self.output, model)

    def verify(self, shard: str, decode: bool) -> tuple[list[str], list[str]]:
        """Return the ids of a shard, and what is wrong with its rows."""
        table = self.output.read_shard(shard)
        faults = []
        for row in table.to_pylist():
            reason = self._fault(row, decode)
            if reason is not None:
                faults.append(f"{shard}: {row['id']}: {reason}")
        return table["id"].to_pylist(), faults

    def _fault(self, row: dict[str, Any], decode: bool) -> str | None:
        if row["token_space"] != self.output.settings["token_space"]:
            return f"it is of token space {row['token_space']}"
        if abs(row["duration"] - row["num_samples"] / row["sample_rate"]) > 1e-6:
            return f"its duration is {row['duration']}, and num_samples {row['num_samples']}"
        if self.output.row_options.drop_repeated_frames:
            return None
        try:
            codes = self.rows.codes(row)
            frames = self.codec.config.padded_samples(codes.num_samples)
            held = codes.frames(self.codec.config) * self.codec.config.frame_samples
            if held != frames:
                return f"its codes hold {held} samples, and {frames} are expected"
            (samples,) = self.codec.decode([codes]) if decode else (None,)
        except CodesError as error:
            return str(error)
        if samples is not None and (
            len(samples) != codes.num_samples or not np.isfinite(samples).all()
        ):
            return f"it decodes to {len(samples)} samples, and num_samples is {codes.num_samples}"
        return None


def verify(
    folder: str,
    model_ref: str,
    *,
    sample: int = 16,
    decode: bool = True,
    device: str = "cpu",
    codecs: int | None = None,
    seed: int = 0,
) -> Verdict:
    """Look at every row of an output, and encode some of its recordings again.

    Parameters
    ----------
    folder
        An output of `bulk.encode`.
    model_ref
        The model that it was made with, or another of its token space.
    sample
        How many clips to encode again and compare; needs the input.
    decode
        Whether to decode every row, rather than only check its codes.
    device, codecs
        As `bulk.encode.EncodeOptions` takes them.
    seed
        Of the sample.

    Raises
    ------
    SnacError
        When the folder, the model or the input cannot be used.
    """
    output = Output(folder)
    output.load()
    model = checkpoint.read(model_ref)
    check_token_space(output, model)
    faults: list[str] = []
    found: list[str] = []
    for ids, wrong in each_shard(output, Verifier, model, device, codecs, "verify", (decode,)):
        found += ids
        faults += wrong
    faults += against_ledger(output, found)
    chosen = random.Random(seed).sample(sorted(found), min(sample, len(found)))
    if chosen:
        faults += encode_again(output, model, chosen, device)
    return Verdict(len(found), len(chosen), tuple(faults))


def against_ledger(output: Output, found: list[str]) -> list[str]:
    """Say which clips are not in the rows once, as the ledger has it."""
    told = [
        name
        for table in output.ledger.tables()
        for name in table.filter(pc.equal(table["status"], DONE))["id"].to_pylist()
    ]
    if sorted(told) == sorted(found):
        return []
    missing, strange = set(told) - set(found), set(found) - set(told)
    faults = [f"{name}: the ledger says that it is done, and no row has it" for name in missing]
    faults += [f"{name}: the ledger does not know of it" for name in strange]
    if len(set(found)) < len(found):
        faults.append(f"{len(found) - len(set(found))} rows have an id that another row has")
    return faults


def encode_again(output: Output, model: Checkpoint, chosen: list[str], device: str) -> list[str]:
    """Encode the recordings of some clips again, and say where their codes differ."""
    settings = output.settings
    kept: dict[str, dict[str, Any]] = {}
    for shard in output.shards():
        table = output.read_shard(shard)
        kept |= {row["id"]: row for row in _chosen(table, chosen).to_pylist()}
    taken = Options(**settings["source"])
    source = Several([find_source(one, taken) for one in settings["inputs"]])
    options = ReadOptions(
        model.config,
        round(WINDOW_SECONDS * model.config.sampling_rate),
        settings["channel"],
        audio_column=settings["source"]["audio_column"] or "audio",
    )
    encoder = Encoder(model, device)
    rows = row_writer(output, model)
    faults = []
    left = set(chosen)
    for table in source.tables():
        group = _chosen(table, chosen)
        if not group.num_rows:
            continue
        made, told = rows.rows(group, [encoder.encode(b) for b in read_group(group, options)])
        left -= set(group["id"].to_pylist())
        for row in told.to_pylist():
            if row["status"] != DONE:
                faults.append(f"{row['id']}: it cannot be read any more: {row['reason']}")
        for row in made.to_pylist():
            for name in rows.code_names:
                if row[name] != kept[row["id"]][name]:
                    faults.append(f"{row['id']}: encoded again, {name} differs")
                    break
    return faults + [f"{name}: it is no longer in the input" for name in sorted(left)]


def _chosen(table: pa.Table, ids: list[str]) -> pa.Table:
    return table.filter(pc.is_in(table["id"], pa.array(ids, pa.string())))
