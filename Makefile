# What people type. Each target sets up what it needs, so that any of them may be the first one on a fresh machine.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

# `make demo BROKER=rabbitmq` has a real RabbitMQ carry the messages; `memory` needs none.
BROKER ?= memory
# `make test ARGS="tests/rig -x"`
ARGS ?=
# Half of what the tests do is wait for leases and timeouts: so files run side by side, each process with servers of its own. 0: one after another.
JOBS ?= 2

BIN := .venv/bin

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: .venv/ready  ## make .venv from the lock file; quick when nothing has changed

demo: setup  ## run 500 orders through everything (BROKER=rabbitmq: with a real RabbitMQ)
	@HAULIER_DEMO_BROKER=$(BROKER) $(BIN)/python -m console.demo

test: setup  ## run every test, on real servers, two files at a time (ARGS="…": for pytest; JOBS=0: one at a time)
	@$(BIN)/python -m console.servers.find
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: setup  ## check style, types, imports, and that no published schema was broken
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --project pyproject.toml
	$(BIN)/lint-imports
	$(BIN)/haulier commands check

format: setup  ## put the code into shape
	$(BIN)/ruff check --fix-only --select I
	$(BIN)/ruff format

bench: setup  ## measure, beside plain Dramatiq and other job systems on the same servers, and draw charts (ARGS="--rounds 1 --peers none")
	@$(BIN)/python -m benchmarks $(ARGS)

check: lint test  ## all that .ci/run does

fuzz: setup  ## let schemathesis look for mistakes in the contract for five minutes (ARGS="--minutes 60 --seed 7")
	@$(BIN)/python -m tests.intake.fuzz $(ARGS)

chaos: setup  ## break everything there is under load for half an hour, and check every promise (ARGS="--minutes 5 --seed 8412")
	@$(BIN)/python -m tests.chaos run $(ARGS)

mutants: setup  ## break the product on purpose, one fence at a time, and see that a test fails each time
	@$(BIN)/python -m tests.mutants $(ARGS)

simulate: setup  ## walk through orders of events that nobody thought of, on the real ledger, for ten minutes (ARGS="--minutes 60 --seed 7")
	@$(BIN)/python -m tests.simulation $(ARGS)

openapi: setup  ## write docs/openapi.json anew, when routes have changed on purpose
	@$(BIN)/python -m producers.intake.app docs/openapi.json

lock: setup  ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --group dev --upgrade --output-file requirements.lock pyproject.toml

.PHONY: help setup demo test lint format bench check fuzz chaos mutants simulate openapi lock

# Prints a Python that will do, or says what is missing.
define find_python
for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3; do \
    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
    found=$$python; \
    "$$python" -c 'import ensurepip, venv' 2>/dev/null && break; \
    lacking=$$python; found=; \
done; \
if [ -z "$$found" ] && [ -n "$$lacking" ]; then \
    echo "$$lacking has no venv; install it (on Debian and Ubuntu: apt-get install $${lacking}-venv)" >&2; exit 1; \
elif [ -z "$$found" ]; then \
    echo "Python 3.11 or newer is needed and none was found; install it, or say where it is: make PYTHON=/path/to/python" >&2; exit 1; \
fi
endef

.venv/ready: pyproject.toml requirements.lock
	@$(find_python); \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    echo "setting up .venv with $$($$found --version)"; \
	    $$found -m venv --clear .venv || exit 1; \
	fi; \
	echo "installing what requirements.lock names; the first time this takes a minute or two"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock || exit 1; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --no-index --editable . || exit 1; \
	touch $@; \
	echo "ready: $(BIN)/haulier"
