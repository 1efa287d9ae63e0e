"""Two models, and what is measured of them, for the page of `robust-vit app`."""

import shutil
from pathlib import Path

import pytest

from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.page import open_models

from ..helpers.commands import succeed
from ..helpers.tiny import masked_folder, masked_rows, save_pretrained, tiny_vit


CHROMIUM = shutil.which("chromium")
BROWSER_OPTIONS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[str]:
    """Folders of two models of one set of classes."""
    folder = tmp_path_factory.mktemp("models")
    return [str(save_pretrained(tiny_vit(seed), folder / side)) for seed, side in enumerate(("before", "after"))]


@pytest.fixture(scope="session")
def evaluated(models, tmp_path_factory) -> AppOptions:
    """Images, and the output of `robust-vit evaluate` on them."""
    folder = tmp_path_factory.mktemp("evaluated")
    data = masked_folder(folder / "data", train=4, validation=40)
    options = ["--dataset", data, "--protocols", "paper", "--output_dir", folder / "results"]
    succeed("evaluate", "--model", models[0], "--compare", models[1], *options)
    return AppOptions(results=folder / "results", dataset=str(data))


@pytest.fixture(scope="session")
def diagnosed(models, evaluated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed") / "out"
    options = ["--dataset", evaluated.dataset, "--output_dir", folder]
    succeed("diagnose", "--model", models[0], "--compare", models[1], *options)
    return folder


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    masked_rows(1, size=(512, 512))[0]["image"].save(path)
    return path


def open_pair(before: str, after: str | None, protocol: str | None):
    """Session of the page with these models."""
    return open_models(AppOptions(model=before, compare=after, protocol=protocol))
