# `make demo` shows zart at work; `make test` sets everything up and runs every check.
# Another interpreter: make test PYTHON=python3.13     Part of the tests: make test ARGS="-m postgres"

PYTHON ?= python3
ARGS ?=

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin
# One worker more than there are cores, as tests wait as much as they work; at least 2, at most 4.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n > 3 ? 4 : n + 1)))

# pyright and npm keep what they fetch inside the venv, so that no home directory is needed.
export PYRIGHT_PYTHON_FORCE_VERSION := $(shell sed -n 's/^pyright==//p' constraints.txt)
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_CACHE_DIR := $(CURDIR)/$(VENV)/pyright
export npm_config_cache := $(CURDIR)/$(VENV)/npm

# The tests start hundreds of processes: each would compile zart anew, for a fifth of a second.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check check-types check-more-types check-style chaos databases bench format clean

help:
	@echo "make demo      see zart at work, on SQLite, nothing else needed"
	@echo "make test      every check, then every test, on all three databases"
	@echo "make check     format, lint, types and import direction only"
	@echo "make chaos     faults in real servers and processes: make chaos MINUTES=30 SEED=1"
	@echo "make bench     zart and its peers compared: make bench ARGS=--quick"
	@echo "make format    write files in the project's format"
	@echo "make clean     remove everything that was made here"

demo: .venv/ready
	@.venv/bin/zart demo

test: $(VENV)/ready databases check
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: $(VENV)/ready
	@$(MAKE) --no-print-directory --jobs=2 --output-sync check-types check-more-types check-style

check-types:
	$(BIN)/mypy

check-more-types:
	$(BIN)/pyright --pythonpath $(BIN)/python

check-style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

chaos: $(VENV)/ready databases
	@ZART_CHAOS_MINUTES=$(or $(MINUTES),10) ZART_CHAOS_SEED=$(SEED) $(BIN)/python -m pytest \
		-n $(WORKERS) --dist worksteal --timeout 0 $(or $(ARGS),tests/chaos)

bench: .venv-bench/ready databases
	@scripts/make-peers $(PYTHON) .venv-peers
	@.venv-bench/bin/python -m benchmarks $(ARGS)

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

databases:
	@scripts/install-databases

.venv/ready: pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv $(PYTHON) .venv

.venv-bench/ready: pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv $(PYTHON) .venv-bench bench

$(VENV)/ready: pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv $(PYTHON) $(VENV) dev

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
