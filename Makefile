# Everything a newcomer needs, with nothing but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

# What `make model` publishes, how it captions where its training had it otherwise, and the data.
RUN ?= runs/flickr8k
SEARCH ?=
DATA ?=
MODEL := jaxcap/pretrained/flickr8k.safetensors

.PHONY: help setup demo model test test-fast parity lint format clean

help:
	@echo "make setup   a virtual environment in $(VENV) with jaxcap in it"
	@echo "make demo    train on drawn scenes, evaluate, caption photographs; a few minutes"
	@echo "make model   RUN=runs/NAME: the model in the package, from a run"
	@echo "make test    the tests"
	@echo "make test-fast  the tests that take two minutes"
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
	$(BIN)/python evaluate.py $(DEMO)/shapes --split test --data-dir $(DEMO)/data
	@echo
	@echo "The scenes, what was said of them, and the training curves: $(DEMO)/shapes/report-test.html"
	@echo
	@echo "Photographs, by the model in the package:"
	$(BIN)/jaxcap caption examples

# The model in the package and its scores, from a run: make model RUN=runs/NAME SEARCH="--beam-size 5"
model: $(VENV)/.setup
	$(BIN)/jaxcap export $(RUN) $(MODEL) --dtype bfloat16 $(SEARCH) --force \
	  --note "Flickr8k; research and education only: docs/model_card.md"
	$(BIN)/python evaluate.py $(MODEL) --split dev --output runs/model $(DATA)
	cp runs/model/metrics-dev.json $(MODEL:.safetensors=.json)
	$(BIN)/jaxcap caption examples

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

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
