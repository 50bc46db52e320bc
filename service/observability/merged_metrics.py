"""The metrics of several worker processes merged into one text, with a label for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Merged(Collector):
    def __init__(self, texts: Mapping[int, str]) -> None:
        self._families: dict[str, Metric] = {}
        for worker, text in texts.items():
            for family in text_string_to_metric_families(text):
                merged = self._families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={**sample.labels, "worker": str(worker)})
                    for sample in family.samples
                ]

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def merge(texts: Mapping[int, str]) -> bytes:
    """Merge each worker's Prometheus text; every sample gets the label ``worker``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(texts))
    return generate_latest(registry)
