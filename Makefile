# Targets create .venv if it is missing, and update it if setup.py or constraints.txt has changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One process per core; tests of a file share fixtures.
PYTEST := $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: help quickstart test test-fast lint format bench package docs licences clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# Needs neither benchmarks nor other engines, so it installs less than the extra `all`.
quickstart: $(VENV)/.installed-train,report ## Install, then take the sample corpus all the way to a Hugging Face model
	$(BIN)/megatron-ipt run examples/quickstart.yaml

test: $(VENV)/.installed-test ## Install the test extra, then run all tests
	$(PYTEST)

test-fast: $(VENV)/.installed-test ## Run the unit tests only (a few minutes)
	$(PYTEST) -m "not slow and not slurm"

lint: $(VENV)/.installed-test ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test ## Benchmark all components on this machine and write docs/benchmarks.md (under 20 minutes)
	$(BIN)/python tools/bench.py

package: $(VENV)/.installed-test ## Build wheel and source distribution in dist/
	$(BIN)/python -c "import setuptools.build_meta as b; print(b.build_sdist('dist'), b.build_wheel('dist'))"

docs: $(VENV)/.installed-docs ## Generate the API reference from docstrings in build/docs
	$(BIN)/pdoc --no-show-source --docformat google --output-directory build/docs megatron_ipt

licences: $(VENV)/.installed-test ## Regenerate docs/licences.md from the installed packages
	$(BIN)/python tools/list_licences.py

clean: ## Remove the environment, runs and caches
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is installed first: the pinned build must be present before another package requires torch.
$(VENV)/.installed-%: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch and other packages into $(VENV); this takes a few minutes"
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --editable '.[$*]'
	touch $@
