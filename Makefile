# One command per job; `make help` lists them. Everything runs in .venv, which `make setup` makes.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

.PHONY: help setup demo test test-fast check coverage fmt bench soak docs generate clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	@echo "Setting up $(VENV) (the first time takes a few minutes)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing $(VENV) && uv pip install --quiet --python $(PY) -e '.[dev]'; \
	else \
	  python3 -m venv $(VENV) && $(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

setup: $(STAMP) ## make .venv with everything that development needs

demo: setup ## fine-tune a real language model on this machine, with no key
	@$(PY) -m tinkex_actors demo

test: setup ## the whole test suite, in two processes
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup ## the tests that take no compilation and no second process
	@$(PY) -m pytest -q -m "not slow and not smollm and not peer"

check: setup ## format, lint, types, layers, sizes, generated files, coverage of the runtime
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m pytest -q tests/contracts -m "not slow"
	@$(MAKE) --no-print-directory coverage

coverage: setup ## every branch of the runtime, under its own tests
	@$(PY) -m coverage erase
	@TINKEX_TEST_SEEDS=20 $(PY) -m coverage run -m pytest -q tests/runtime tests/testing tests/logs
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report

fmt: setup ## format the code and fix what can be fixed
	@$(VENV)/bin/ruff check --fix -q . ; $(VENV)/bin/ruff format .

bench: setup ## measure, as ratios against baselines in the same run
	@$(PY) -m tests.bench

soak: setup ## the seeded simulations, at length
	@TINKEX_TEST_SEEDS=20000 $(PY) -m pytest -q --timeout=7200 tests/runtime tests/testing
	@TINKEX_TEST_SEEDS=2000 $(PY) -m pytest -q --timeout=3600 tests/actors --ignore=tests/actors/test_training_simulation.py --ignore=tests/actors/test_sampling_faults.py
	@TINKEX_TEST_SEEDS=10000 $(PY) -m pytest -q --timeout=14400 tests/actors/test_sampling_faults.py
	@TINKEX_TEST_SEEDS=20000 $(PY) -m pytest -q --timeout=7200 tests/actors/test_training_simulation.py
	@TINKEX_TEST_SEEDS=100000 $(PY) -m pytest -q --timeout=3600 tests/wire/test_fuzz.py
	@TINKEX_TEST_SEEDS=30 $(PY) -m pytest -q tests/runs/test_killed.py
	@TINKEX_TEST_SEEDS=10000 $(PY) -m pytest -q --timeout=3600 tests/transport/test_faults.py tests/clients/test_damaged_answers.py

$(DOCS_STAMP): $(STAMP)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(PY) -e '.[docs]'; \
	else \
	  $(PY) -m pip install -qq --disable-pip-version-check -e '.[docs]'; \
	fi
	@touch $@

docs: $(DOCS_STAMP) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict -f docs/mkdocs.yml

generate: setup ## regenerate the protobuf module from its .proto, the pages of types and endpoints, a picture, and the measured compatibility table
	@$(PY) -m tinkex_actors.wire._proto.generate
	@$(PY) docs/types_page.py
	@$(PY) docs/endpoints_page.py
	@$(PY) -m tests.bench.backoff_picture
	@WRITE_PAGES=1 $(PY) -m pytest -q tests/clients/test_compatibility_page.py

clean: ## remove what the commands above made
	@rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
