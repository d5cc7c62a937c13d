# make launch   the example repository, from a clone to a running notebook
# make test     all checks and tests
# make check    formatting, lint, types, layers only
# make bench    what streams, launches and lines cost; about five minutes (docs/benchmarks.md)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: launch test check format bench clean

launch: $(VENV)/.installed
	@$(BIN)/python examples/launch.py

test: check
	$(BIN)/python -m pytest

check: $(VENV)/.tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.benched
	$(BIN)/python -m benchmarks --out build/bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

# `pip install --group` is not in the pip that comes with Python 3.11, nor in an environment that somebody
# else made here.
$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.pip
	$(BIN)/pip install --quiet --editable '.[server,local]'
	@touch $@

$(VENV)/.tested: pyproject.toml | $(VENV)/.pip
	$(BIN)/pip install --quiet --editable '.[all]' --group dev
	@touch $@ $(VENV)/.installed

$(VENV)/.benched: pyproject.toml | $(VENV)/.pip
	$(BIN)/pip install --quiet --editable '.[server,local]' --group bench
	@touch $@ $(VENV)/.installed
