"""The distributions: a wheel built from the sdist holds the whole package, and runs outside the checkout."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import robust_vit_hf

from .helpers.commands import files_below
from .helpers.tiny import ROOT, masked_folder, save_pretrained, tiny_vit


IMPORT_ALL = """
from importlib import import_module
from pkgutil import walk_packages
import robust_vit_hf
for module in walk_packages(robust_vit_hf.__path__, "robust_vit_hf."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
print(robust_vit_hf.__file__)
"""


def run(*command, folder: Path, **environment) -> str:
    """stdout of a command in a folder. Nothing is fetched: build tools are those of this environment."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"} | environment
    done = subprocess.run(list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder into which the wheel is installed that is built from the sdist of this checkout."""
    root = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", root, folder=ROOT)
    (sdist,) = root.glob("robust_vit_hf-*.tar.gz")
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", root, sdist, folder=root)
    (wheel,) = root.glob("robust_vit_hf-*.whl")
    run(*pip, "install", "--no-deps", "--target", root / "site", wheel, folder=root)
    return root / "site"


ORDERS = [
    ("CLIPVisionConfig", True),
    ("DINOv3ViTConfig", True),
    ("AutoModelForImageClassification", True),
    ("AutoConfig", False),
]
FIND_ALL = """
from transformers import AutoModelForImageClassification, CLIPVisionConfig, DINOv3ViTConfig
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "image_size": 32, "patch_size": 16}
for config in (CLIPVisionConfig(**sizes), DINOv3ViTConfig(**sizes)):
    print(type(AutoModelForImageClassification.from_config(config)).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "own_first"), ORDERS)
def test_classifiers_are_found_whatever_is_imported_first(name, own_first):
    lines = ["import robust_vit_hf", f"from transformers import {name}"][:: 1 if own_first else -1]
    found = run(sys.executable, "-c", "\n".join([*lines, FIND_ALL]), folder=ROOT)
    assert found.split() == ["CLIPZeroShotForImageClassification", "DINOv3ViTForImageClassification"]


def test_every_dependency_has_a_floor():
    """In the form that `make test-floors` reads, and no second one for the same package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = sum(project["project"]["optional-dependencies"].values(), project["project"]["dependencies"])
    floors = {}
    for requirement in {*requirements, *project["build-system"]["requires"]}:
        if not requirement.startswith("robust-vit-hf["):
            name, floor = re.fullmatch(r"([A-Za-z0-9_-]+)>=([0-9.]+)", requirement).groups()
            assert floors.setdefault(name, floor) == floor


def test_public_names():
    assert sorted(robust_vit_hf.__all__) == [
        "CLIPZeroShotForImageClassification",
        "ConfidenceLoss",
        "DINOv3ViTForImageClassification",
        "RelevanceLoss",
        "RelevanceMapPipeline",
        "RelevanceOutput",
        "RobustViTConfig",
        "RobustViTTrainer",
        "SufficientSubsets",
        "diagnose",
        "eval_transform",
        "improve",
        "load_image_set",
        "load_masked_dataset",
        "load_model",
        "make_image_processor",
        "relevance_map",
        "sufficient_input_subsets",
        "train_transform",
    ]
    for name in robust_vit_hf.__all__:
        assert getattr(robust_vit_hf, name).__module__.startswith("robust_vit_hf."), name


@pytest.mark.slow
def test_the_wheel_holds_all_files_of_the_package(installed):
    expected, found = (
        {name: content for name, content in files_below(root / "robust_vit_hf").items() if "__pycache__" not in name}
        for root in (ROOT, installed)
    )
    assert found.keys() == expected.keys() and found == expected
    assert not {"tests", "trainer", "eval", "benchmarks"} & {path.name for path in installed.iterdir()}


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(installed, tmp_path):
    environment = {"PYTHONPATH": str(installed)}
    printed = run(sys.executable, "-c", IMPORT_ALL, folder=tmp_path, **environment)
    assert Path(printed.strip()).is_relative_to(installed)
    command = installed / "bin" / "robust-vit"
    assert "commands:" in run(command, "--help", folder=tmp_path, **environment)

    save_pretrained(tiny_vit(), tmp_path / "model")
    masked_folder(tmp_path / "data", train=8, validation=4)
    options = ["--dataset", "data", "--num_train_epochs", 1, "--report_to", "none", "--use_cpu", "--output_dir", "run"]
    printed = run(command, "train", "--config", "vit-b", "--model", "model", *options, folder=tmp_path, **environment)
    assert f"Recipe: {installed / 'robust_vit_hf/experiments/recipes/vit-b.yaml'}" in printed
    assert (tmp_path / "run" / "README.md").read_text().startswith("---\n")  # the card, of the bundled template
