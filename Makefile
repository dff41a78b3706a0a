# Targets create .venv when it is missing and bring it up to date when setup.py or constraints.txt changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: help quickstart test test-fast lint format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.installed-all ## Install, then take the sample corpus all the way to a Hugging Face model
	$(BIN)/megatron-ipt run examples/quickstart.yaml

test: $(VENV)/.installed-test ## Install the test extra, then run every test
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-test ## Run the unit tests only (under two minutes)
	$(BIN)/python -m pytest -m "not slow and not slurm"

lint: $(VENV)/.installed-test ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, runs and caches
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is installed first and by itself: its pinned build must be there before another package can ask for any torch.
$(VENV)/.installed-%: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --editable '.[$*]'
	touch $@
