# Everything runs in .venv, made here from pyproject.toml and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Without a checkpoint: the bundled detector on rendered photographs, in everything that the targets can write.
CHECKPOINT ?=
EXPORT_OPTIONS ?= $(if $(CHECKPOINT),--precision fp32 --precision fp16,--int8-steps 120 --max-size-mb 2)
OUT ?= build

# One process a core, up to four: each holds torch and TensorFlow. Files stay whole, so fixtures are made once a process.
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help export test fast lint format docs train clean

help: ## Show the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

export: $(STAMP) ## The main job: make export [CHECKPOINT=model.pth] [EXPORT_OPTIONS='--int8 --calib …'] [OUT=build]
	$(BIN)/facex export $(if $(CHECKPOINT),'$(CHECKPOINT)') $(EXPORT_OPTIONS) --out '$(OUT)'

test: $(STAMP) ## All tests that CI needs.
	$(PYTEST)

fast: $(STAMP) ## The inner loop, under two minutes.
	$(PYTEST) -q -m "not slow and not shared"

lint: $(STAMP) ## Style, types, and the direction of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Apply the style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write docs/cli.md from the commands' --help.
	$(BIN)/python docs/write_cli.py

train: $(STAMP) ## Train the bundled detector again, three to four hours on 2 cores, and put it in place.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m facex.demo.train --out training
	cp training/facex-demo.pth training/facex-demo.json facex/demo/

clean: ## Remove what the targets above made.
	rm -rf $(VENV) build training .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
