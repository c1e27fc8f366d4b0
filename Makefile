# Commands for development. They need Python 3.11 or newer, make and a compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: train test test-slow test-processor test-versions lint bench generate wheel tiers images

train: $(READY)
	$(BIN)/python -m learner $(ARGS) $(if $(findstring --local-actors,$(ARGS)),,--local-actors 2)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m slow $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m tests.bench $(or $(ARGS),all)

generate: $(READY)
	$(BIN)/python -m tests.ci.generate

wheel: $(READY)
	$(BIN)/python -m tests.ci.wheel

tiers: $(READY)
	$(BIN)/python -m tests.ci.tiers

# Tests as on a processor without AVX-512, and in one precision. Commands that tests start inherit both settings.
PRECISION ?= float32
test-processor: export ATEN_CPU_CAPABILITY := avx2
test-processor: export ONEDNN_MAX_CPU_ISA := AVX2
test-processor: export TEST_PRECISION := $(PRECISION)
test-processor: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

test-versions: $(READY)
	$(BIN)/python -m tests.ci.versions $(ARGS)

images:
	$(PYTHON) -m deploy.settings
	docker compose build

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
