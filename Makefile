# Every target makes what it needs: a bare machine with Python 3.11 (or newer) and pip is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
JOBS ?= 4

.PHONY: help demo servers test soak lint types imports bench compare check clean

help:
	@echo "make demo    ten thousand payments through real workers, one of them killed on the way"
	@echo "make test    the tests           make lint    format, lint, types, import rules"
	@echo "make check   lint and test       make bench   how fast it is here"
	@echo "make servers what the tests start: redis-server"
	@echo "make soak    the long fault runs     make compare   how fast other queues are here"

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q --editable . --group dev
	@touch $@

servers:
	@.ci/servers

demo: $(READY)
	$(BIN)/python examples/shop/demo.py $(ARGS)

test: $(READY) servers
	$(BIN)/python -m pytest -m "not soak" -n $(JOBS) --dist worksteal $(ARGS)

soak: $(READY) servers
	$(BIN)/python -m pytest -m soak -s $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/windlass bench $(ARGS)

compare:
	$(PYTHON) bench/compare.py $(ARGS)

check: lint test

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo .bench
