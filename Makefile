# Everything a checkout needs, from an empty machine with Python, pip and make.
# `make` alone lists the targets.

VENV := .venv
BIN  := $(VENV)/bin

# Where `make serve` listens. HOST is read from the command line only (make serve HOST=0.0.0.0):
# some shells and toolchains export a HOST of their own that means something else.
HOST  = 127.0.0.1
PORT ?= 8000

# An index to take torch from; empty means PyPI's. Where it is not set, that is PyTorch's index of
# CPU builds on a machine without an NVIDIA GPU: PyPI's builds for Linux bring 2.2 GB of CUDA.
CPU_INDEX := https://download.pytorch.org/whl/cpu
CHOOSE := $(if $(filter undefined,$(origin TORCH_INDEX)),yes)
TORCH_INDEX ?=

# Passed on to pytest: make test ARGS="-k layouts"
ARGS ?=

# Tests run in one process per core, a file at a time: make test ARGS="-n 0" runs them in one.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

# Processes side by side share the cores: their threads would wait for each other. Libraries read
# this when they are loaded, and what tests start inherits it.
THREADS := OMP_NUM_THREADS=1

# The first Python that is new enough; PYTHON=... names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)

# One stamp for the service alone, one for everything; each is older than what it was made from
# only when the pins have changed since.
BASE := $(VENV)/installed.base
FULL := $(VENV)/installed.full
PINS := pyproject.toml constraints.txt

# PESQ is compiled when it is installed; without a compiler the figure is left out, and said so.
EXTRAS := train,bulk,cluster,hub,tracing,onnx,bench,chart,docs,dev$(if $(shell command -v cc),$(shell printf ,)pesq)

# $(call install,EXTRAS,WHAT) installs this checkout and the given extras at the pinned versions.
# torch from another index comes first and alone: that build then satisfies the pin, and its
# dependencies still come from the ordinary index.
define install
@index='$(TORCH_INDEX)'; torch="$$(grep '^torch==' constraints.txt)"; \
if [ -z '$(CHOOSE)' ]; then \
	echo "Downloading $(2), with PyTorch from $${index:-PyPI}."; \
elif [ "$$(uname -s)" != Linux ] || [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then \
	echo 'Downloading $(2), and PyTorch from PyPI: 2.7 GB on Linux, with CUDA; 0.2 GB elsewhere.'; \
elif $(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' \
		'$(CPU_INDEX)/torch/' 2>/dev/null; then \
	index='$(CPU_INDEX)'; \
	echo "No NVIDIA GPU found: downloading $(2), and PyTorch's CPU build: 0.2 GB."; \
else \
	echo 'No NVIDIA GPU found, but $(CPU_INDEX) cannot be reached.' \
		'Downloading $(2), and PyTorch from PyPI: up to 2.7 GB, of which 2.2 GB is CUDA.'; \
fi; \
if [ -n "$$index" ]; then \
	$(BIN)/python -m pip install --no-deps --index-url "$$index" "$$torch" || [ -n '$(CHOOSE)' ]; \
fi
$(BIN)/python -m pip install -c constraints.txt -e '.$(1)'
endef

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-slow test-lowest lint format lock clusters images-test bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(FULL) ## install everything into .venv (TORCH_INDEX=url: take torch from there)
	@echo 'Ready: make serve, make test.'

serve: $(BASE) ## start the service (PORT=8000 HOST=127.0.0.1; SNAC_MODEL=ref names another model)
	@exec $(BIN)/snac-service --host '$(HOST)' --port '$(PORT)'

test: $(FULL) lint ## lint, check types and run the tests but those of make test-slow (ARGS: what pytest is to be told)
	$(THREADS) $(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-slow: $(FULL) ## run the tests of a minute or more: runs that are killed, 50 reloads, an example
	$(THREADS) $(BIN)/python -m pytest $(WORKERS) -m slow $(ARGS)

# Pins that other versions of torch have of their own.
LOWEST := $(VENV)-lowest
TORCH_PINS := '^(torch|triton|sympy|setuptools|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)=='

test-lowest: ## run the core's tests on the lowest torch that the package admits, in .venv-lowest
	$(PYTHON) -m venv $(LOWEST)
	grep -vE $(TORCH_PINS) constraints.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install -c $(LOWEST)/constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') \
		"torch==$$(sed -n 's/^    "torch>=\([0-9.]*\),.*/\1/p' pyproject.toml)" \
		pytest hypothesis psutil snac==1.2.1 -e .
	$(THREADS) $(LOWEST)/bin/python -m pytest -W default tests/snac_core/test_codec.py \
		tests/snac_core/test_codes.py tests/snac_core/layouts tests/snac_core/test_parity.py \
		tests/snac_core/inference tests/snac_core/streaming tests/snac_core/store $(ARGS)

lint: $(FULL) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(FULL) ## put imports and layout in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(FULL) ## pin the whole tree again in constraints.txt (ARGS=--upgrade: to the newest versions)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--fork-strategy fewest --custom-compile-command 'make lock' --quiet \
		--output-file constraints.txt $(ARGS)

clusters: $(FULL) ## run jobs and the service on Ray; nodes and replicas are lost and join (15 minutes)
	$(THREADS) $(BIN)/python -m pytest -n 0 -s tests/bulk/cluster_jobs.py tests/service/cluster_jobs.py $(ARGS)

bench: $(FULL) ## measure against the published package; writes bench/results/ (a quiet machine!)
	$(BIN)/python bench/cpu.py
	$(BIN)/python bench/serving.py
	$(BIN)/python bench/streaming.py --batches 1 4 8 > bench/results/streaming.md
	@cat bench/results/streaming.md
	@cat bench/results/*.md > bench/results/table.tmp; mv bench/results/table.tmp bench/RESULTS.md

images-test: $(FULL) ## build the images and run them with a Docker daemon (minutes; skips without one)
	$(BIN)/python -m pytest -n 0 -s tests/docker/images.py $(ARGS)

docs: $(FULL) ## build the documentation as a site in site/, and fail on any broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'Ready: python -m http.server --directory site'

clean: ## remove .venv, caches and build products
	rm -rf $(VENV) $(LOWEST) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed, and none was found.' \
		'PYTHON=/path/to/python3 names one.' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(BASE): $(PINS) | $(BIN)/pip
	$(call install,,the service (0.1 GB))
	@touch $@

$(FULL): $(PINS) | $(BIN)/pip
	$(call install,[$(EXTRAS)],the service with all extras)
	@touch $(BASE) $@
