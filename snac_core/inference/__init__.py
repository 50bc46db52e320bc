"""How a batch is computed: jobs, windows, networks and preemption."""

from __future__ import annotations
