SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# Which Python builds the environment. Where pip looks, and so which build of torch it takes, is pip's own configuration.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SERVERS := tests/cluster/servers.py
SOAK := $(patsubst %,tests/cluster/test_%.py,chaos commit_conformance failures_ray storage_faults storage_s3)
DEMO := outputs/demo

.PHONY: help setup demo test test-unit test-cluster test-soak test-gpu style check picture verify wheel clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(READY) ## the environment .venv, rebuilt when pyproject.toml or constraints.txt change, and the servers that the tests talk to
	@if [ -f $(SERVERS) ]; then $(BIN)/python $(SERVERS); fi

# The stamp is written last: a build that was broken off is taken up again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % v[:2])'
	@echo "building $(VENV): some minutes the first time"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## films from the demo catalogue on a local Ray cluster, and a contact sheet of them
	@$(BIN)/dub run catalogue=assets/demo/catalogue.jsonl storage.root=$(DEMO)
	@$(BIN)/python -m infinitedub.launch.contact_sheet $(DEMO)/films $(DEMO)/sheet.png
	@echo; echo "films          $(DEMO)/films"; echo "contact sheet  $(DEMO)/sheet.png"

test: setup ## every test this machine can run, two kinds at a time; gpu where there is CUDA
	@$(MAKE) --no-print-directory --jobs 2 --keep-going test-unit test-cluster test-soak test-gpu

test-unit: $(READY) ## what needs neither Ray nor a server: some minutes
	@$(BIN)/python -m pytest tests/unit

test-cluster: setup ## what runs on Ray and against S3 servers: some minutes
	@$(BIN)/python -m pytest tests/cluster $(addprefix --ignore=,$(SOAK))

test-soak: setup ## everything breaks while films are made, and S3 servers that fail: some minutes
	@$(BIN)/python -m pytest $(SOAK)

test-gpu: $(READY) ## what needs CUDA; skipped without
	@$(BIN)/python -m pytest tests/gpu

style: $(READY) ## formats the code and mends what a machine can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

check: $(READY) ## rules, format and types; changes no file. The pre-commit hook runs it, too
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

picture: $(READY) ## docs/house.svg, drawn from the imports
	@$(BIN)/python docs/draw_house.py

verify: $(READY) ## the model against golden tensors of the original release
	@$(BIN)/dub verify tests/golden

wheel: $(READY) ## the wheel and the source archive, in dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@ls -1 dist/*

clean: ## everything that make made, but for finished films in outputs/
	@rm -rf $(VENV) .venv-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
