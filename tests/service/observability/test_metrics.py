"""The pages that the code writes, and the metrics that the service prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import reference
from service.observability.merged_metrics import merge
from service.observability.metrics import Metrics
from service.settings import SECTIONS, Settings

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_is_what_the_command_prints(name: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "service.cli", "--reference", name],
        env={**os.environ, "SNAC_PORT": "not a port"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    again = f"snac-service --reference {name} > docs/{name}.md"
    assert (DOCS / f"{name}.md").read_text("utf-8") == printed, again


def test_every_setting_is_on_the_page_once_and_described() -> None:
    listed = re.findall(r"^\| `SNAC_([A-Z_]+)` \|", reference.settings_page(), re.MULTILINE)
    assert sorted(listed) == sorted(name.upper() for name in Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name
    assert all(section.__doc__ for section in SECTIONS)


def rows() -> dict[str, tuple[str, set[str], str]]:
    """Return name -> (type, labels, meaning) of the table in docs/metrics.md."""
    found = {}
    for line in (DOCS / "metrics.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith("`snac_"):
            labels = {label.strip("`") for label in cells[2].split(", ") if label}
            found[cells[0].strip("`")] = (cells[1], labels, cells[3])
    return found


def test_the_table_is_what_the_service_prints(running: Any, samples_of: Any, wav_of: Any) -> None:
    wav = wav_of(samples_of(0.3))
    encoded = running.http.post("/v1/encode", content=wav)
    running.http.post("/v1/decode", content=encoded.content)
    running.http.post("/v1/reconstruct", content=wav)
    printed = {}
    for family in text_string_to_metric_families(running.http.get("/metrics").text):
        if family.name.startswith("snac_") and not family.name.endswith("_created"):
            name = family.name + ("_total" if family.type == "counter" else "")
            printed[name] = family
    table = rows()
    assert printed.keys() == table.keys()
    seen = set()
    for name, family in printed.items():
        kind, labels, meaning = table[name]
        assert (family.type, family.documentation) == (kind, meaning)
        for sample in family.samples:
            seen.add(name)
            assert set(sample.labels) - {"le"} == labels, name
    assert {"snac_stage_seconds", "snac_audio_seconds_total", "snac_model_requests_total"} <= seen


def test_what_was_computed_is_counted(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu") as running:
        encoded = running.http.post("/v1/encode", content=wav_of(samples_of(1.0)))
        running.http.post("/v1/decode", content=encoded.content)
        running.http.post("/v1/decode", content=b"{}")
        version = encoded.headers["X-Model-Version"]
        for kind in ("encode", "decode"):
            assert 1.0 <= running.metric(f'snac_audio_seconds_total{{kind="{kind}"}}') < 1.2
        assert running.metric("snac_real_time_factor") > 0
        assert running.metric('snac_stage_seconds_count{stage="read"}') == 2
        assert running.metric('snac_stage_seconds_count{stage="write"}') == 2
        line = 'snac_model_requests_total{{outcome="{}",version="{}"}}'
        assert running.metric(line.format("ok", version)) == 2
        assert running.metric(line.format("invalid-request", version)) == 1
        assert running.metric('snac_device_memory_bytes{state="allocated"}') == 0


def test_server_timing_names_every_stage_once(running: Any, samples_of: Any, wav_of: Any) -> None:
    wav = wav_of(samples_of(0.3))
    files = [("files", ("a.wav", wav)), ("files", ("b.wav", wav))]
    encoded = running.http.post("/v1/encode", content=wav)
    item = encoded.json()
    for answer in (
        encoded,
        running.http.post("/v1/encode/batch", files=files),
        running.http.post("/v1/decode", json=item),
        running.http.post("/v1/decode/batch", json={"items": [item, item]}),
    ):
        parts = answer.headers["Server-Timing"].split(", ")
        stages: dict[str, str] = dict(part.split(";dur=") for part in parts)
        assert list(stages) == ["read", "queue", "inference", "write"]
        assert float(stages["inference"]) > 0


def test_several_workers_metrics_are_told_apart() -> None:
    texts = {}
    for worker in (0, 1):
        metrics = Metrics()
        metrics.answered("/v1/encode", "ok", "v1", 0.25 * (worker + 1))
        texts[worker] = metrics.render().decode()
    merged = merge(texts).decode()
    for worker in (0, 1):
        line = f'snac_requests_total{{outcome="ok",route="/v1/encode",worker="{worker}"}} 1.0'
        assert line in merged
    assert merged.count("# TYPE snac_requests_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    sums = [s.value for s in families["snac_request_seconds"].samples if s.name.endswith("_sum")]
    assert sums == [0.25, 0.5]
