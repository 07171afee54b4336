# Needs only Python >= 3.11 with venv. Choose the interpreter by `make install PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRACKING ?= sqlite:///runs/mlflow.db

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow lint check format bench ui clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Set up .venv (CPU build of torch on a machine without a GPU).

$(STAMP): pyproject.toml constraints.txt scripts/install.py
	$(PYTHON) scripts/install.py $(VENV)
	@touch $@

quickstart: $(STAMP) ## Train, evaluate and compare on the embedded benchmark.
	$(BIN)/wmtp quickstart

test: $(STAMP) ## Run the tests with branch coverage.
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --cov --cov-report=term --cov-fail-under=85

test-slow: $(STAMP) ## Run the tests that take minutes.
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m slow

lint: $(STAMP) ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test ## All checks: lint, then test.

format: $(STAMP) ## Format the code and mend what the linter can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Run the timed comparisons.
	@set -e; for file in $(wildcard benchmarks/*.py); do echo "== $$file"; $(BIN)/python "$$file"; done

ui: $(STAMP) ## Open the MLflow pages of local runs.
	$(BIN)/mlflow ui --backend-store-uri $(TRACKING)

clean: ## Remove .venv and caches; runs stay.
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage htmlcov
	rm -rf src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
