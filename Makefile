# Needs Debian or Ubuntu with Python >= 3.11 and its python3-venv, git, make; nothing else.
# Everything is installed into .venv here; delete .venv to start afresh.

SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

JOBS   ?= 2
PYTEST := -m pytest --numprocesses $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help install demo data-catalog test test-all test-lowest check format bench docs qgis-plugin clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# A stamp remembers which extras are installed: it is made again only when the declared dependencies change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "geoseg needs Python >= 3.11; choose one with: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "install python3-venv first: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) --editable ".[$*]"
	@touch $@

install: $(VENV)/.installed ## .venv with the program .venv/bin/geoseg

demo: install ## generate a Sentinel-2-like scene, segment it, print what came out and where it lies
	$(BIN)/python pipelines/demo.py

data-catalog: $(VENV)/.installed-catalog ## write data_catalog/ anew: the demo's scene, labels and map, and the models
	$(BIN)/python -m pipelines.data_catalog

test: $(VENV)/.installed-test,openvino,serve ## every test that needs nothing but Python
	$(BIN)/python $(PYTEST) -m "not slow and not system" $(ARGS)

test-all: $(VENV)/.installed-test,openvino,serve ## Debian components first (asks for sudo where it has to), then every test
	$(SUDO) apt-get update --quiet
	$(SUDO) apt-get install --yes --no-install-recommends \
	  qgis python3-qgis python3-gdal gdal-bin postgresql postgresql-postgis postgis chromium xvfb xauth
	$(BIN)/python $(PYTEST) $(ARGS)

check: $(VENV)/.installed-test,openvino,serve ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test,openvino,serve ## rewrite the sources as `make check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-lowest: ## the tests again with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	  --editable ".[test,openvino,serve]" "torchvision>=0.26" # the one of the lowest torch
	.venv-lowest/bin/python $(PYTEST) -m "not slow and not system" $(ARGS)

bench: $(VENV)/.installed-bench,openvino ## measure, and write the tables to bench/
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed-docs ## the documentation as a website in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

qgis-plugin: | $(BIN)/python ## dist/geoseg_provider.zip, which QGIS installs
	$(BIN)/python integrations/qgis/package.py dist

clean: ## delete everything that make made
	rm -rf $(VENV) .venv-lowest site demo bench dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
