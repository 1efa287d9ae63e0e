"""Records of what whole commands write and print, from which no value may differ. `python -m tests.helpers.golden` writes them anew
and prints what changes: each line must be meant."""

import gzip
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from difflib import unified_diff
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from .commands import call
from .tiny import DATA


WRITES = "ROBUST_VIT_HF_WRITES_RECORDS"  # variable of the environment
WITHOUT_OUTPUT = ("app", "card", "describe", "push")  # commands, which may change the folder that comes next
TEXTS = (".md", ".csv", ".tex", ".html", ".jsonl", ".yaml", ".txt", ".py")
# Keys of what differs between machines, and texts.
VARYING = re.compile(
    "commit|seconds|version|hardware|machine|energy|emission|digest|etag|sha256|stamp|_time|runtime|per_second|flos|^target_modules"
)
HIDDEN = {
    r"'\w*(runtime|per_second)': '[^']*'": "",
    r"127\.0\.0\.1:\d+": "host",
    r"localhost:\d+": "localhost",
    r"data:[a-z/+-]+;base64,[A-Za-z0-9+/=]+": "data:",
    r"(?<!\.)\b[0-9a-f]{8,}\b": "#",
    r"\d{4}-\d\d-\d\d([T ][\d:.+Z]+)?": "date",
    r"\d+(\.\d+)? (seconds|minutes|s|min)\b": "time",
}
NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


class Recorder:
    """Runs commands in the working directory, and keeps what they say and write as lines of text by file."""

    def __init__(self):
        self.root, self.figures = Path.cwd(), 0
        self.lines: dict[str, list[str]] = {}
        self.files: dict[str, dict[str, list[str]]] = {}
        self.loaders: set[str] = (
            set()
        )  # batches and workers, which change no result; shown where workers are asked for

    def run(self, name: str, words: list[str]) -> None:
        """Run a command with its output in the folder `name`, and record both."""
        has_output = not {*words[:2]} & {*WITHOUT_OUTPUT}
        logger, handler, said = logging.getLogger("robust_vit_hf"), logging.Handler(), []
        handler.emit = lambda record: said.append(f"{record.levelname}: {record.getMessage()}")
        logger.addHandler(handler)
        torch.manual_seed(0)
        with self.drawing(), patch.object(DataLoader, "__init__", self.noting(DataLoader.__init__)):
            done = call(*words, *(["--output_dir", name] if has_output else []))
        logger.removeHandler(handler)
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        loaders, self.loaders = sorted(self.loaders) if "num_workers" in " ".join(words) else [], set()
        self.add(f"{name}: printed", "\n".join([f"status {done.status}", *said, *errors, *loaders, done.out]))
        self.add_files(self.root / (name if has_output else words[1]))

    def add_files(self, folder: Path, name: str | None = None) -> None:
        """Record the files of a folder, which is below the root if it is not named."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith(".") and "logs" not in path.parts:
                shown = f"{name}/{path.relative_to(folder)}" if name else str(path.relative_to(self.root))
                self.add(shown, "\n".join(lines_of(path)))

    def drawing(self) -> AbstractContextManager:
        """Context in which figures are recorded instead of drawn."""
        return patch.object(Figure, "savefig", lambda *given, **options: self.figure(*given, **options))

    def noting(self, make: Callable) -> Callable:
        def init(loader: DataLoader, dataset: Any, batch_size: int | None = 1, **options: Any) -> None:
            if type(loader) is DataLoader and "batch_sampler" not in options:  # and not Accelerate's copy
                self.loaders.add(f"loader: batches of {batch_size}, {options.get('num_workers', 0)} workers")
            make(loader, dataset, batch_size, **options)

        return init

    def figure(self, figure: Figure, target: Any, **options: Any) -> None:
        """Record what a figure shows, instead of drawing it, which depends on fonts and takes long."""
        Image.new("RGB", (1, 1)).save(target, "PNG")
        shown: list[dict] = []
        for axis in figure.axes:
            texts = [*axis.texts, axis.title, axis.xaxis.label, axis.yaxis.label]
            texts += [*axis.get_xticklabels(), *axis.get_yticklabels()]
            texts += axis.get_legend().get_texts() if axis.get_legend() else []
            lines = [[*map(float, values)] for line in axis.lines for values in line.get_data()]
            bars = [[*bar.get_bbox().bounds, *bar.get_facecolor()] for bar in axis.patches if hasattr(bar, "get_bbox")]
            said = [f"{text.get_text()!r} {text.get_color()}" for text in texts if text.get_text()]
            pictures = [levels(np.ma.filled(picture.get_array(), 0)) for picture in axis.images]
            shown.append({"texts": said, "lines": lines, "bars": bars, "pictures": pictures})
        if options.get("format") != "pdf":
            self.figures += 1
            self.add(f"figure {self.figures}", shown)

    def add(self, name: str, content: Any) -> None:
        """Record a text, or values by name."""
        text = content if isinstance(content, str) else "\n".join(flat(content))
        text = text.replace(str(self.root), "{root}")
        for pattern, shown in HIDDEN.items():
            text = re.sub(pattern, shown, text)
        lines = [line for line in text.splitlines() if line.strip()]
        shown = re.sub(r"\b[0-9a-f]{8,}\b|tfevents.*|[A-Z][a-z]+\d\d_[\d-]+_[^/]+", "#", name)
        # Digests name folders, and hold paths of the machine: files of one name are in the order of their contents.
        files = self.files.setdefault(shown, {})
        files[name] = lines
        self.lines[shown] = [line for of_file in sorted(files.values()) for line in of_file]


def lines_of(path: Path) -> Iterator[str]:
    """What a file contains; of other kinds, nothing but that it is there."""
    if path.suffix == ".json":
        yield from flat(json.loads(path.read_bytes()))
    elif path.suffix == ".parquet":
        yield from flat(pq.read_table(path).to_pydict())
    elif path.suffix == ".safetensors":
        yield from flat({name: moments(values) for name, values in load_file(path).items()})
    elif path.suffix == ".npy":
        yield from flat(moments(np.load(path)))
    elif "tfevents" in path.name:
        log = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        yield from flat({name: [[one.step, one.value] for one in log.Scalars(name)] for name in log.Tags()["scalars"]})
        for name in log.Tags()["images"]:
            yield from flat({f"{name} {one.step}": {"bytes": one.encoded_image_string} for one in log.Images(name)})
    elif path.suffix in TEXTS:
        yield path.read_text(encoding="utf-8")
    elif path.suffix in (".png", ".webp", ".jpg"):
        yield from flat({"bytes": path.read_bytes()})


def moments(values: np.ndarray) -> dict[str, Any]:
    """Shape, mean, deviation, and two projections of what is left, which tell the places of values apart."""
    flattened = np.nan_to_num(np.asarray(values, dtype=float).ravel())
    mean, deviation, places = flattened.mean(), flattened.std(), np.arange(flattened.size)
    rest = (flattened - mean) / max(np.linalg.norm(flattened - mean), 1e-9)
    shares = [float(rest @ np.cos(step * places)) for step in (1, 0.1)]
    return {"shape": list(np.shape(values)), "moments": [float(mean), float(deviation), *shares]}


def levels(pixels: np.ndarray) -> str:
    """Shape of a picture, and mean levels of 4 × 4 parts of each channel."""
    share = pixels.dtype.kind == "f" and pixels.max() <= 1
    picture = Image.fromarray((pixels * (255 if share else 1)).astype(np.uint8)).convert("RGB")
    small = np.asarray(picture.resize((4, 4), Image.Resampling.BOX))
    return f"pixels {pixels.shape}: {' '.join(map(str, small.ravel()))}"


def flat(value: Any, name: str = "") -> Iterator[str]:
    """Lines `name = value` of nested values; lists of numbers or words are one line."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        yield from flat(Image.open(io.BytesIO(value["bytes"])), name)
    elif isinstance(value, Image.Image):
        yield f"{name} = {value.mode} {levels(np.asarray(value.convert('RGB')))}"
    elif isinstance(value, dict):
        for key, of in value.items():
            if not VARYING.search(str(key)):
                yield from flat(of, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(of, NESTED) for of in value):
        for place, of in enumerate(value):
            yield from flat(of, f"{name}[{place}]")
    else:
        values = value if isinstance(value, (list, tuple)) else [value]
        yield f"{name} = {' '.join(map(short, values))}"


NESTED = (dict, list, tuple, np.ndarray, Image.Image)


def short(value: Any) -> str:
    """A number with 5 digits, or a text."""
    return f"{value:.5g}" if isinstance(value, float) and not float(value).is_integer() else str(value)


def difference(expected: dict[str, list[str]], found: dict[str, list[str]]) -> str | None:
    """The first file and line that differ; `None` if none does."""
    for name in dict.fromkeys([*expected, *found]):
        if name not in expected or name not in found:
            return f"{name}: {'not expected' if name in found else 'missing'}"
        for number, (old, new) in enumerate(zip_longest(expected[name], found[name]), 1):
            if old != new and (old is None or new is None or not same(old, new)):
                return f"{name}, line {number}:\n  expected: {old}\n  found:    {new}"
    return None


def same(old: str, new: str) -> bool:
    """Whether lines differ by the rounding of decimal numbers, moments by that of weights, or a picture by 3 levels at most."""
    apart = 3 if "pixels " in old else 2e-5 if "moments" in old else 0
    words, others = (NUMBER.split(line) for line in (old, new))
    if len(words) != len(others) or words[::2] != others[::2]:
        return False
    return all(a == b or near(a, b, apart) for a, b in zip(words[1::2], others[1::2], strict=True))


def near(old: str, new: str, apart: float) -> bool:
    if not apart and not ({".", "e"} & {*old} and {".", "e"} & {*new}):
        return False
    decimals = len(old.partition("e")[0].partition(".")[2])
    unit = 10**-decimals if 0 < decimals <= 2 else 0
    return abs(float(old) - float(new)) <= max(apart, 2e-3 * abs(float(old)), 1.01 * unit, 1e-6)


def compare(name: str, lines: dict[str, list[str]]) -> str | None:
    """The first difference from a record; or, if that is wanted, write it anew and print what differs."""
    path = DATA / "commands" / f"{name}.json.gz"
    old = json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}
    if WRITES not in os.environ:
        return difference(old, lines)
    for file in dict.fromkeys([*old, *lines]):
        changed = unified_diff(old.get(file, []), lines.get(file, []), file, file, n=0, lineterm="")
        sys.stdout.writelines(f"{line}\n" for line in changed)
    path.write_bytes(gzip.compress(json.dumps(lines, ensure_ascii=False, indent=0).encode(), mtime=0))
    return None


if __name__ == "__main__":
    os.environ[WRITES] = "yes"
    sys.exit(pytest.main(["-s", "-q", "tests/test_golden.py", *sys.argv[1:]]))
