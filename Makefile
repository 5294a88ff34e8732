# Needs Python >= 3.11 and make; everything else is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin

# One thread a test process: pytest runs one process a core.
TEST_ENV := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Twice quiet: errors are shown, progress and warnings are not.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-all lint format docs coverage bench-shapley bench-quality bench-paper clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## Build .venv and install graphprune into it

demo: $(VENV)/.installed ## Prune a small network from end to end
	$(BIN)/graphprune demo

test: lint ## Lint, then run the fast tests
	$(PYTEST)

test-all: lint ## Lint, then run every test
	$(PYTEST) -m "slow or not slow"

lint: $(VENV)/.installed ## Check style, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed ## Rewrite files into the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

coverage: $(VENV)/.installed-bench ## Analyse and prune 300 networks (hours); resumes coverage.jsonl
	$(BIN)/python benchmarks/coverage.py --out coverage.jsonl
	$(BIN)/python benchmarks/coverage.py --out coverage.jsonl --table

bench-shapley: $(VENV)/.installed-bench ## Shapley estimators against others' (half an hour); needs ../shared
	$(BIN)/python benchmarks/shapley.py --out shapley.json

bench-quality: $(VENV)/.installed-bench ## What is left at the same operations (hours); needs ../shared
	$(BIN)/python benchmarks/quality.py --out quality.jsonl
	$(BIN)/python benchmarks/quality.py --out quality.jsonl --table

bench-paper: $(VENV)/.installed-bench ## The paper's experiments on small networks (half an hour)
	$(BIN)/python benchmarks/paper.py toy untrained robustness lowdata --networks mlp cnn

clean: ## Remove .venv and everything built
	rm -rf $(VENV) build dist site graphprune-out graphprune-demo *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The stamps are newer than pyproject.toml once the environment is what it asks for.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV); torch and its libraries are several GB"
	@$(PIP_INSTALL) --editable '.[dev]'
	@mkdir -p $(VENV)/typing && ln -sfn ../../cli $(VENV)/typing/graphprune_cli # see [tool.mypy]
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@$(PIP_INSTALL) --editable '.[bench]'
	@touch $@

# PYTHON=... chooses the interpreter; otherwise the first one that is new enough.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then echo "Building $(VENV) with $$python"; exec "$$python" -m venv $(VENV); fi; \
	done; \
	echo "No Python >= 3.11 with venv found; name one: make PYTHON=/path/to/python3" >&2; exit 1
	@$(PIP_INSTALL) --upgrade pip
