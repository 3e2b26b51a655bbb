# Two commands for a fresh machine: `make table` (the reference table, end to end), `make test`.
# Everything is installed into .venv here; nothing needs root, a GPU or Slurm.

PYTHON ?= python3
comma := ,
# Without a GPU, torch is pinned to a version with a CPU build. With one (nvidia-smi is there), pip
# chooses freely. To choose yourself: `make CONSTRAINTS= table`, `make CONSTRAINTS=constraints-cpu.txt table`.
CONSTRAINTS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,constraints-cpu.txt)
# Without a GPU nvshmem4py is of tests alone, which run it over a fake library. With one, which CUDA's
# it is to be is for you to say, and two of them in one environment are not kept apart.
EXTRAS := test$(if $(shell command -v nvidia-smi 2>/dev/null),,$(comma)nvshmem)

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(strip $(CONSTRAINTS)),-c $(CONSTRAINTS))
INPUTS := pyproject.toml constraints-cpu.txt

# .venv first, then what goes into it
.NOTPARALLEL:
.PHONY: help asked setup table test test-thorough test-versions lint bench clean

help:
	@echo "make table   the ten rows of the reference table, verified, on this machine's CPUs"
	@echo "make test    lint and the tests, of many cases alike a sample"
	@echo "make test-thorough   all cases, and under each version of megatron-core"
	@echo "make test-versions   the tests that meet megatron-core, under 0.17, 0.18 and 0.19"
	@echo "make lint    ruff, ruff format --check, mypy, the directions between rooms"
	@echo "make bench   benchmarks: ratios taken in one run"
	@echo "make setup   only install into .venv;  make clean  remove it"

setup: asked .venv/.test-installed

# Each time: what a first try left half made, or of another Python, is made again.
asked:
	@sh venv.sh $(PYTHON) $(if $(filter file,$(origin PYTHON)),no,yes)

.venv/.test-installed: $(INPUTS)
	@if $(PIP) --dry-run --no-deps --report - torch | grep -Eq '"(nvidia|cuda)-'; then \
	echo "torch for $$($(BIN)/python --version) is a CUDA build here: 3 GB to download, 5.4 GB on disk"; fi
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@

.venv/.dev-installed: .venv/.test-installed
	$(PIP) -e '.[dev]'
	@touch $@

table: setup
	$(BIN)/python -m refit.run -m 'parallel=glob(*)'

test: lint
	@bash tests/run.sh $(BIN)/python .venv

test-thorough: lint
	@bash tests/run.sh $(BIN)/python .venv --thorough
	@bash tests/versions.sh $(BIN)/python .venv/megatron-core --thorough

test-versions: setup
	@bash tests/versions.sh $(BIN)/python .venv/megatron-core

lint: asked .venv/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	@set -e; for script in benchmarks/bench_*.py; do name=$$(basename $$script .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf .venv
