# Everything works from a fresh clone with Python 3.11, pip, make and git; the first target that needs .venv makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo check format test test-slow test-real docs study-smoke teachers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bertpress needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,demo]'
	touch $@

install: $(STAMP)  ## make .venv with everything in it

demo: $(STAMP)  ## compress a real model on real data and show what came out
	$(BIN)/bertpress demo --out runs/demo

check: $(STAMP)  ## lint, formatting, types
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

test: $(STAMP)  ## the quick tests; with COVERAGE=1 the floor of coverage, too
	$(BIN)/pytest -n auto --dist loadgroup -m "not slow" $(if $(COVERAGE),--cov=bertpress --cov-report=term:skip-covered)

test-slow: $(STAMP)  ## the slow tests
	$(BIN)/pytest -n auto --dist loadgroup -m "slow and not real"

test-real: $(STAMP)  ## the tests on real data, with DATA=DIR, the folder that the benchmarks read
	BERTPRESS_DATA="$(DATA)" $(BIN)/pytest -n auto --dist loadgroup -m real

docs: $(STAMP)  ## write the generated pages and tables again
	$(BIN)/python -m bertpress.docs

study-smoke: $(STAMP)  ## every shipped recipe on a tiny model, as one study
	$(BIN)/pytest -m slow tests/integration/test_every_recipe.py

teachers: $(STAMP)  ## fine-tune the teachers of the benchmarks, once
	$(BIN)/python benchmarks/teachers.py

clean:  ## remove .venv, caches and run folders
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .coverage
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
