# Set up, try, and test jaxcap. Needs only make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

# `make model`: the run to publish, search options to store with it, and options of the data.
RUN ?= runs/flickr8k
SEARCH ?=
DATA ?=
# Splits to calibrate confidence on, that of the training's kind first: flickr8k:dev coco:val
CALIBRATE ?=
MODEL := jaxcap/pretrained/captioner.safetensors

.PHONY: help setup demo model test test-fast tour docs fuzz parity bench lint format clean

help:
	@echo "make setup      install jaxcap into the virtual environment $(VENV)"
	@echo "make demo       train on drawn scenes, evaluate, caption photographs; a few minutes"
	@echo "make model      RUN=runs/NAME: make a run the packaged model"
	@echo "make test       run the tests, except those of make tour"
	@echo "make test-fast  run all but the slow tests"
	@echo "make tour       run the tour and the solutions of its exercises, and check a small site"
	@echo "make docs       build the site in build/site, with the tour executed, and check it"
	@echo "make fuzz       damage files in TRIES ways for each reader, and count tracebacks and hangs"
	@echo "make parity     run the tests of make test, and compare with PyTorch and Keras"
	@echo "make bench      run short benchmarks, and compare them with the last ones on this machine"
	@echo "make lint       run ruff and mypy"
	@echo "make format     let ruff fix what it can"

setup: $(VENV)/.setup

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxcap needs Python 3.11 or newer; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Install each extra once, and again when pyproject.toml changes.
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
	$(BIN)/jaxcap train shapes --workdir $(DEMO)/shapes --data.data-dir $(DEMO)/data
	$(BIN)/jaxcap evaluate $(DEMO)/shapes --split test --data-dir $(DEMO)/data
	@echo
	@echo "The scenes with their captions, and the training curves: $(DEMO)/shapes/report-test.html"
	@echo
	@echo "Photographs, captioned by the packaged model:"
	$(BIN)/jaxcap caption examples

# Export a run as the packaged model and score it: make model RUN=runs/NAME SEARCH="--beam-size 5"
model: $(VENV)/.setup
	$(BIN)/jaxcap export $(RUN) $(MODEL) --dtype bfloat16 $(SEARCH) --force \
	  --note "Flickr8k, Flickr30k, COCO captions; research and education only" \
	  $(if $(CALIBRATE),--calibrate $(CALIBRATE) $(DATA))
	$(BIN)/jaxcap evaluate $(MODEL) --split dev --output runs/model $(DATA)
	cp runs/model/metrics-dev.json $(MODEL:.safetensors=.json)
	$(BIN)/jaxcap caption examples

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
# Tests of pages that are executed or built, which take minutes.
TOUR := tests/tour tests/test_site.py

test: $(VENV)/.test
	$(PYTEST) $(TOUR:%=--ignore=%)

test-fast: $(VENV)/.test
	$(PYTEST) -m 'not slow'

tour: $(VENV)/.test
	$(PYTEST) $(TOUR)

docs: $(VENV)/.test
	rm -rf build/site  # pages of modules that are gone; what was executed is in a cache
	$(BIN)/python -m sphinx -qW --keep-going -d build/doctrees docs build/site
	JAXCAP_SITE=build/site $(BIN)/python -m pytest tests/test_site.py

# Damage files in TRIES ways for each reader; 100,000 take hours.
TRIES ?= 100000
fuzz: $(VENV)/.test
	PYTHONPATH=. $(BIN)/python tests/fuzz/fuzzing.py --tries $(TRIES)

parity: $(VENV)/.parity test

bench: $(VENV)/.parity
	$(BIN)/python benchmarks/short.py

lint: $(VENV)/.setup $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO)
