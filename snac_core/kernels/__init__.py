"""Fast channels-last inference: C++ on a CPU, Triton and CUDA graphs on a GPU."""

from __future__ import annotations
