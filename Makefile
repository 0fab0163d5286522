# make demo | test | test-oldest | check | format | coverage | clean. Needs Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
TYPES := build/types

.PHONY: help demo test test-oldest check format coverage clean

help:
	@echo "make demo         install into .venv and compare PPO with and without recall traces (about 4 minutes)"
	@echo "make test         install the test tools and run the tests"
	@echo "make test-oldest  the tests of Stable-Baselines3, with the oldest version that is admitted, in .venv-oldest"
	@echo "make check        lint, format and types"
	@echo "make format       format the code and repair what the linter can"
	@echo "make coverage     run the tests and show the lines that none of them reaches"
	@echo "make clean        remove .venv, .venv-oldest, caches and build files; runs/ stays"

demo: $(VENV)/.base
	@$(BIN)/recall-traces compare

test: $(VENV)/.test
	@$(BIN)/pytest --quiet

test-oldest:
	@test -d $(VENV)-oldest || $(PYTHON) -m venv $(VENV)-oldest
	@$(VENV)-oldest/bin/pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[test]'
	@$(VENV)-oldest/bin/pytest --quiet tests/recall_traces/test_sb3*.py tests/envs/test_sb3.py tests/envs/test_gymnasium_adapter.py

coverage: $(VENV)/.dev
	@$(BIN)/pytest --quiet --cov --cov-report=term-missing:skip-covered

format: $(VENV)/.dev
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

# A type checker cannot follow the folders to their import names, so types are checked in an installed copy, made anew
# each time. (A strict editable install would do too, but it freezes the list of files: a new one needs a new install.)
check: $(VENV)/.dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@rm -rf build
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile --target $(TYPES) .
	@cd $(TYPES) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/setup.cfg" --cache-dir "$(CURDIR)/.mypy_cache" \
		--no-error-summary --package recall_traces
	@echo "lint, format and types: fine"

clean:
	@rm -rf $(VENV) $(VENV)-oldest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	@find recall_traces envs agents scripts tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# An empty file marks what is installed, so that a second time costs nothing.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recall-traces needs Python 3.11 or newer: make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing recall-traces into $(VENV) (a few minutes the first time)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing recall-traces and its test tools into $(VENV) (a few minutes the first time)"
	@$(INSTALL) ".[test]"
	@touch $@ $(VENV)/.base

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing recall-traces and its development tools into $(VENV) (a few minutes the first time)"
	@$(INSTALL) ".[dev]"
	@touch $@ $(VENV)/.test $(VENV)/.base
