"""Alert rules and dashboard: they name what the service measures, and a real Prometheus agrees."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from service.observability.metrics import Metrics
from service.problems import INTERNAL, PROBLEMS
from tests.support.messages import END, hear, opened, say

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docker" / "observability"
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"]
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "snac.json").read_text("utf-8"))
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
RULES = {rule["alert"]: rule["expr"] for group in ALERTS for rule in group["rules"]}
KEY = "a key for the scrape"
SECONDS = 120

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus")


def test_expressions_name_metrics_and_outcomes_of_the_service() -> None:
    metrics = Metrics()
    families = {family.name for family in metrics.registry.collect()}
    outcomes = {kind.name for kind in PROBLEMS.values()} | {INTERNAL.name, "ok"}
    outcomes |= {"succeeded", "failed"}
    for name, expression in {**PANELS, **RULES}.items():
        for metric in re.findall(r"\b(?:snac|process)_\w+", expression):
            family = re.sub(r"_(total|bucket|sum|count)$", "", metric)
            assert {metric, family} & families, f"{name}: {metric}"
        for listed in re.findall(r'outcome=~?"([^"]+)"', expression):
            assert set(listed.split("|")) <= outcomes, name


def test_the_operators_page_says_what_to_do_about_every_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert set(re.findall(r"`(Snac\w+)`", page)) == RULES.keys()


@needs_promtool
@pytest.mark.parametrize("command", [["check", "rules"], ["test", "rules"]], ids=" ".join)
def test_rules_are_valid_and_fire_when_they_should(command: list[str]) -> None:
    name = "alerts.yml" if command[0] == "check" else "alerts_test.yml"
    done = subprocess.run(
        ["promtool", *command, name], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **query: str) -> Any:
        answer = self._http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> Any:
        """Return the series of a panel's expression, as of now."""
        written = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
        return self.get("/api/v1/query", query=written)["result"]


@contextlib.contextmanager
def watching(target: str, folder: Path) -> Iterator[Prometheus]:
    """Start Prometheus with the project's configuration, but more often and on ``target``."""
    key = folder / "key"
    key.write_text(KEY)
    text = (FOLDER / "prometheus.yml").read_text("utf-8")
    config = yaml.safe_load(text.replace("service:8000", target))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["authorization"]["credentials_file"] = str(key)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "alerts.yml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=error",
        ]
    )
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200:
                    break
            assert process.poll() is None, "Prometheus ended"
            assert time.monotonic() < deadline, "Prometheus is not ready"
            time.sleep(0.1)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield Prometheus(http)
    finally:
        process.terminate()
        process.wait(60)


def use(running: Any, wav: bytes) -> None:
    """Send one request of each kind."""
    codes = running.http.post("/v1/encode", content=wav).json()["codes"]
    assert running.http.post("/v1/decode", json={"codes": codes}).status_code == 200
    assert running.http.post("/v1/encode", content=b"no audio").status_code == 400
    with opened(running, "decode", {"layout": "flat"}) as stream:
        say(stream, np.zeros(14, "<i4").tobytes(), END)
        assert hear(stream)[2] == 1000


def table(prometheus: Prometheus) -> str:
    """Return Markdown: what each panel asks, and what the first of the series says."""
    lines = ["", "| panel | expression | series | labels of the first | value |", 5 * "|---" + "|"]
    for name, expression in PANELS.items():
        series = prometheus.query(expression)
        labels = {
            key: value
            for key, value in series[0]["metric"].items()
            if key not in ("__name__", "instance", "job")
        }
        said = ", ".join(f"{key}={value}" for key, value in labels.items())
        written = expression.replace("|", "\\|")
        value = series[0]["value"][1]
        lines.append(f"| {name} | `{written}` | {len(series)} | {said} | {value:.12} |")
    return "\n".join([*lines, ""])


@needs_prometheus
def test_every_panel_and_rule_has_data_in_a_real_prometheus(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any, tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    wav = wav_of(samples_of(0.5))
    # No collector is there; traces are sampled all the same.
    options = {"otlp_endpoint": "http://127.0.0.1:9", "metrics_key": KEY, "device": "cpu"}
    with (
        serve(model=model_ref, **options) as running,
        watching(running.url.removeprefix("http://"), tmp_path) as prometheus,
    ):
        missing, deadline = dict(PANELS), time.monotonic() + SECONDS
        while missing:
            assert time.monotonic() < deadline, f"no data: {sorted(missing)}"
            use(running, wav)
            missing = {name: one for name, one in missing.items() if not prometheus.query(one)}
            time.sleep(0.5)
        sys.stdout.write(table(prometheus))  # shown by pytest -s
        groups = prometheus.get("/api/v1/rules")["groups"]
        rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert rules.keys() == RULES.keys()
        assert {rule["health"] for rule in rules.values()} == {"ok"}
        assert rules["SnacDown"]["state"] == "inactive"
        now = time.time()
        found = prometheus.get(
            "/api/v1/query_exemplars",
            query="snac_request_seconds_bucket",
            start=str(now - 600),
            end=str(now + 60),
        )
        traces = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
        assert traces
        assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)
