# The commands of this repository; `make help` lists them.  Each sets itself up: a virtual environment is made once and
# its packages are installed again only when a requirements file has changed.
# All paths are relative, so that a checkout in a folder with spaces in its name works.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
VENV_LATEST ?= .venv-latest
VENV_TRL := .venv-trl
VENV_TUNIX := .venv-tunix
# An interpreter of your own: make train PYTHON=/usr/bin/python3.12
PYTHON ?=
PYTHON_LATEST ?=
# Test files that run side by side.
JOBS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
# make test ORACLES=1 installs PyTorch too, for the tests that compare with it; elsewhere they are skipped by name.
ORACLES ?=
# More arguments for pytest or for the run: make test ARGS=tests/em, make train ARGS=--config.seed=1
ARGS ?=

CONFIG ?= configs/llm/arithmetic.py:vmpo
WORKDIR ?= runs/arithmetic
RL_CONFIG ?= configs/rl/memory_chain.py:vmpo
RL_WORKDIR ?= runs/memory_chain

COVERED := em losses numerics methods
COVERAGE_FLOOR := 95

PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input
# Large pages for the buffers that XLA allocates again and again on a CPU: a quarter less time for a gradient.
MEMORY := GLIBC_TUNABLES=glibc.malloc.hugetlb=1
TEST_ENVIRONMENT := $(MEMORY) OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu
# Whether everything still runs on the newest versions takes few generated examples, compiled in less time.
FEW := HYPOTHESIS_PROFILE=few XLA_FLAGS=--xla_backend_optimization_level=0
TEST_REQUIREMENTS := requirements-dev.txt $(if $(ORACLES),requirements-oracles.txt)
TEST_STAMP := $(VENV)/.$(if $(ORACLES),oracles,dev)-installed

.PHONY: help train train-rl test test-quick test-latest peers lint format report clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

train: $(VENV)/.run-installed ## the main job: SFT, then V-MPO, on arithmetic word problems (CONFIG=, WORKDIR=, ARGS=)
	$(MEMORY) "$(VENV)/bin/python" -m experiments.train --config=$(CONFIG) --workdir="$(WORKDIR)" $(ARGS)

train-rl: $(VENV)/.rl-installed ## the control job: MemoryChain-20 by V-MPO with GTrXL, five seeds (RL_CONFIG=, RL_WORKDIR=, ARGS=)
	$(MEMORY) "$(VENV)/bin/python" -m experiments.train --config=$(RL_CONFIG) --workdir="$(RL_WORKDIR)" \
		--config.num_seeds=5 $(ARGS)

test: $(TEST_STAMP) ## all tests, and the coverage of em, losses, numerics, methods (ORACLES=1 adds PyTorch, JOBS=, ARGS=)
	$(TEST_ENVIRONMENT) "$(VENV)/bin/python" -m pytest -n $(JOBS) --dist loadfile \
		$(COVERED:%=--cov=gempi_jax.%) --cov-report= $(ARGS)
	$(if $(ARGS),,for package in $(COVERED); do echo "coverage of gempi_jax.$$package:"; \
		"$(VENV)/bin/python" -m coverage report --include="gempi_jax/$$package/*" --skip-covered --show-missing \
			--fail-under=$(COVERAGE_FLOOR); done)

test-quick: $(TEST_STAMP) ## the tests without whole runs and killed processes
	$(TEST_ENVIRONMENT) "$(VENV)/bin/python" -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

test-latest: $(VENV_LATEST)/.latest-installed ## the quick part on Python 3.12, the newest jax and transformers 5
	$(TEST_ENVIRONMENT) $(FEW) "$(VENV_LATEST)/bin/python" -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

peers: $(VENV_TRL)/.installed $(VENV_TUNIX)/.installed ## the libraries that benchmarks compare with, in environments of their own

lint: $(TEST_STAMP) ## ruff, and the floors of the architecture
	"$(VENV)/bin/python" -m ruff check .
	"$(VENV)/bin/python" -m ruff format --check .
	"$(VENV)/bin/python" -c "from importlinter.cli import lint_imports_command; lint_imports_command()" --no-logo

format: $(TEST_STAMP) ## let ruff format and sort
	"$(VENV)/bin/python" -m ruff check --fix .
	"$(VENV)/bin/python" -m ruff format .

report: $(VENV)/.run-installed ## write report.html of WORKDIR again
	"$(VENV)/bin/python" -m experiments.make_report "$(WORKDIR)"

clean: ## remove the environments and caches; runs stay
	rm -rf "$(VENV)" "$(VENV_LATEST)" "$(VENV_TRL)" "$(VENV_TUNIX)" .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage build dist

# Stamps, touched last: an interrupted set-up is done again, a finished one is not.
$(VENV)/.made:
	@python="$(PYTHON)"; python="$${python:-$$(.ci/find_python 3.11 3.12)}"; \
	echo "making $(VENV) with $$python"; "$$python" -m venv "$(VENV)"
	touch "$@"

$(VENV)/.run-installed: requirements.txt constraints.txt | $(VENV)/.made
	@echo "installing requirements.txt"
	"$(VENV)/bin/python" $(PIP_INSTALL) -r requirements.txt
	touch "$@"

$(VENV)/.rl-installed: requirements-rl.txt requirements.txt constraints.txt | $(VENV)/.made
	@echo "installing requirements-rl.txt"
	"$(VENV)/bin/python" $(PIP_INSTALL) -r requirements-rl.txt
	touch "$@" "$(VENV)/.run-installed"

$(TEST_STAMP): $(TEST_REQUIREMENTS) requirements-rl.txt requirements.txt constraints.txt | $(VENV)/.made
	@echo "installing $(TEST_REQUIREMENTS)"
	"$(VENV)/bin/python" $(PIP_INSTALL) $(TEST_REQUIREMENTS:%=-r %)
	touch "$@" "$(VENV)/.dev-installed" "$(VENV)/.rl-installed" "$(VENV)/.run-installed"

$(VENV_LATEST)/.latest-installed: requirements-latest.txt
	@python="$(PYTHON_LATEST)"; python="$${python:-$$(.ci/find_python 3.12)}"; \
	echo "making $(VENV_LATEST) with $$python"; "$$python" -m venv "$(VENV_LATEST)"
	"$(VENV_LATEST)/bin/python" $(PIP_INSTALL) --upgrade -r requirements-latest.txt
	touch "$@"

$(VENV_TRL)/.installed: requirements-trl.txt
	@python="$(PYTHON)"; python="$${python:-$$(.ci/find_python 3.11 3.12)}"; \
	echo "making $(VENV_TRL) with $$python"; "$$python" -m venv "$(VENV_TRL)"
	"$(VENV_TRL)/bin/python" $(PIP_INSTALL) -r requirements-trl.txt
	touch "$@"

$(VENV_TUNIX)/.installed: requirements-tunix.txt
	@python="$(PYTHON_LATEST)"; python="$${python:-$$(.ci/find_python 3.12)}"; \
	echo "making $(VENV_TUNIX) with $$python"; "$$python" -m venv "$(VENV_TUNIX)"
	"$(VENV_TUNIX)/bin/python" $(PIP_INSTALL) -r requirements-tunix.txt
	touch "$@"
