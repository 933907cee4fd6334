# Everything a newcomer needs, with nothing but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: help setup demo test parity lint format clean

help:
	@echo "make setup   a virtual environment in $(VENV) with jaxcap in it"
	@echo "make demo    train on drawn scenes, evaluate, caption; a few minutes, no downloads"
	@echo "make test    the tests"
	@echo "make parity  the tests, with PyTorch and Keras to compare with"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff mend what it can"

setup: $(VENV)/.setup

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxcap needs Python 3.11 or newer; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each extra is installed once, and again when pyproject.toml changes.
$(VENV)/.setup: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.setup

$(VENV)/.parity: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -e '.[test,parity]'
	@touch $@ $(VENV)/.test $(VENV)/.setup

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -e '.[lint]'
	@touch $@

demo: $(VENV)/.setup
	$(BIN)/jaxcap prepare shapes --data-dir $(DEMO)/data
	$(BIN)/python train.py configs/shapes.py --workdir $(DEMO)/shapes --data.data-dir $(DEMO)/data
	$(BIN)/python evaluate.py $(DEMO)/shapes --split test
	@echo
	@echo "The scenes, what was said of them, and the training curves: $(DEMO)/shapes/report-test.html"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2

parity: $(VENV)/.parity test

lint: $(VENV)/.setup $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO)
