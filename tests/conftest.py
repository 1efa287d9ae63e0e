"""Environment and fixtures of all tests: no network, caches of their own, and one Hub on loopback."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch


# Before anything reads it. The workers of xdist inherit HF_HOME, in which the bundled backbone is written once. Caches and what libraries
# leave in the folder for temporary files go with the process that began; what a test wrote stays in pytest's own folder if it failed.
if "ROBUST_VIT_HF_TESTS" not in os.environ:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["ROBUST_VIT_HF_TESTS"] = tempfile.mkdtemp(prefix="robust-vit-hf-")
    atexit.register(shutil.rmtree, os.environ["ROBUST_VIT_HF_TESTS"], ignore_errors=True)
_caches = Path(os.environ["ROBUST_VIT_HF_TESTS"])
os.environ["TMPDIR"] = tempfile.tempdir = str(_caches / "tmp")
Path(tempfile.tempdir).mkdir(exist_ok=True)
_worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ |= {
    "HF_HOME": str(_caches / "home"),
    "HF_HUB_CACHE": str(_caches / _worker / "hub"),
    "HF_DATASETS_CACHE": str(_caches / _worker / "datasets"),
    "HF_METRICS_CACHE": str(_caches / _worker / "metrics"),
    "HF_MODULES_CACHE": str(_caches / _worker / "modules"),
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",  # numba, which rembg imports, sets the threads of torch too
}

import pytest

from .helpers.hub import Hub


HUB = Hub()
os.environ |= HUB.environment()  # read when `huggingface_hub` is imported

import datasets
from hypothesis import settings
from matplotlib.figure import Figure
from PIL import Image

from robust_vit_hf import make_image_processor

from .helpers.tiny import IMAGE_SIZE, ROOT, masked_dataset, masked_folder, save_pretrained, tiny_vit


# Few and the same examples each time; `--hypothesis-profile many` asks for others.
settings.register_profile("few", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("many", max_examples=500, deadline=None)
settings.load_profile("few")


def pytest_collection_finish(session):
    """Leave what was imported out of garbage collections: Accelerate asks for several of them at each training, and with all test modules
    loaded they take longer than the tiny trainings."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def hub():
    """The Hub on loopback, empty. Clients in this process and in subprocesses talk to it."""
    HUB.reset()
    yield HUB
    HUB.reset()


@pytest.fixture
def datasets_cache(tmp_path_factory, monkeypatch):
    """A cache of `datasets` for the test alone, in this process."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def undrawn():
    """Figures are composed, but not drawn, which is a third of the time of most commands: for files of tests that look at no picture."""

    def save(figure, file, **options):
        Image.new("RGB", (8, 8)).save(file, "png")

    with patch.object(Figure, "savefig", save):
        yield


@pytest.fixture
def processor():
    return make_image_processor("paper", IMAGE_SIZE)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Parquet with masks, which no test changes."""
    root = tmp_path_factory.mktemp("photographs")
    masked_dataset(24).to_parquet(root / "validation-00000.parquet")
    return root


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A model, and images with masks in two splits, which no test changes."""
    root = tmp_path_factory.mktemp("inputs")
    save_pretrained(tiny_vit(), root / "model")
    return masked_folder(root / "data").parent


@pytest.fixture
def in_root(monkeypatch):
    """Relative paths as in the documentation."""
    monkeypatch.chdir(ROOT)
