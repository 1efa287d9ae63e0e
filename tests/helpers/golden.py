"""Records of what whole commands write and print, from which no value may differ. `python -m tests.helpers.golden` writes them anew,
and prints what changes."""

import gzip
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import load_file

from .commands import call
from .tiny import DATA


RECORDS = DATA / "commands"
WRITES = "ROBUST_VIT_HF_WRITES_RECORDS"  # variable of the environment
NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")
# Times, versions, and digests, which differ between machines; and the contents of embedded files.
VARYING = re.compile(
    r"commit|seconds|version|hardware|machine|energy|emission|digest|etag|sha256|stamp|_time|runtime|per_second|flos"
)
HIDDEN = {
    r"'\w*(runtime|per_second)': '[^']*'": "",
    r"127\.0\.0\.1:\d+": "host",
    r"data:[a-z/+-]+;base64,[A-Za-z0-9+/=]+": "data:",
    r"\b[0-9a-f]{8,}\b": "#",
    r"\d{4}-\d\d-\d\d([T ][\d:.+Z]+)?": "date",
    r"\d+(\.\d+)? (seconds|minutes|s|min)\b": "time",
}


class Recorder:
    """Runs commands in a folder, and keeps what they say and write as lines of text by file."""

    def __init__(self, root: Path):
        self.root, self.lines, self.figures = root, {}, 0

    def __call__(self, name: str, *words: Any, **options: Any) -> None:
        """Run a command with its output in the folder `name`, and record both; an option that is `True` is a flag."""
        options = {"output_dir": name} | options
        for option, value in options.items():
            values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
            words += (f"--{option}", *values) if value is not None else ()
        logger, handler, said = logging.getLogger("robust_vit_hf"), logging.Handler(), []
        handler.emit = lambda record: said.append(f"{record.levelname}: {record.getMessage()}")
        logger.addHandler(handler)
        try:
            with patch.object(Figure, "savefig", lambda *given, **options: self.figure(*given, **options)):
                done = call(*words)
        finally:
            logger.removeHandler(handler)
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        self.add(f"{name}: printed", "\n".join([f"status {done.status}", *said, *errors, done.out]))
        self.folder(str(options["output_dir"] or words[1]))

    def figure(self, figure: Figure, target: Any, **options: Any) -> None:
        """Record what a figure shows, instead of drawing it, which depends on fonts and takes long."""
        Image.new("RGB", (1, 1)).save(target, "PNG")
        if options.get("format") == "pdf":
            return
        facts: list[str] = []
        for place, axis in enumerate(figure.axes):
            texts = [
                *axis.texts,
                axis.title,
                axis.xaxis.label,
                axis.yaxis.label,
                *axis.get_xticklabels(),
                *axis.get_yticklabels(),
            ]
            texts += axis.get_legend().get_texts() if axis.get_legend() else []
            facts += [f"{place} {text.get_text()!r} {text.get_color()}" for text in texts if text.get_text()]
            facts += flat(
                [
                    [list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), line.get_color()]
                    for line in axis.lines
                ],
                f"{place} line",
            )
            facts += flat(
                [
                    [*patch.get_bbox().bounds, *patch.get_facecolor()]
                    for patch in axis.patches
                    if hasattr(patch, "get_bbox")
                ],
                f"{place} bar",
            )
            facts += [f"{place} {levels_of(picture.get_array())}" for picture in axis.images]
        self.figures += 1
        self.add(f"figure {self.figures}", "\n".join(facts))

    def folder(self, name: str) -> None:
        for path in sorted((self.root / name).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self.add(str(path.relative_to(self.root)), "\n".join(lines_of(path)))

    def add(self, name: str, content: Any) -> None:
        """Record a text, or values by name."""
        text = content if isinstance(content, str) else "\n".join(flat(content))
        text = text.replace(str(self.root), "{root}")
        for pattern, shown in HIDDEN.items():
            text = re.sub(pattern, shown, text)
        self.lines[re.sub(HIDDEN_NAMES, "#", name)] = [line for line in text.splitlines() if line.strip()]


HIDDEN_NAMES = r"\b[0-9a-f]{8,}\b|tfevents.*"


def lines_of(path: Path) -> Iterator[str]:
    """What a file contains; of files of other kinds, that they are there."""
    if path.suffix in (".json", ".ipynb"):
        yield from flat(json.loads(path.read_bytes()))
    elif path.suffix == ".parquet":
        yield from flat(pq.read_table(path).to_pydict())
    elif path.suffix == ".safetensors":
        yield from flat({name: moments(values) for name, values in load_file(path).items()})
    elif path.suffix == ".npy":
        yield from flat(moments(np.load(path)))
    elif path.suffix in (".md", ".csv", ".tex", ".html", ".jsonl", ".yaml", ".txt", ".py"):
        yield path.read_text(encoding="utf-8")
    elif path.suffix in (".png", ".webp", ".jpg"):
        yield levels(path.read_bytes())


def moments(values: np.ndarray) -> dict[str, Any]:
    """Shape, and two sums with weights that tell the places of values apart."""
    flat_values = np.nan_to_num(np.asarray(values, dtype=float).ravel())
    places = np.cos(np.arange(flat_values.size))
    return {"shape": list(np.shape(values)), "norm": np.linalg.norm(flat_values), "sum": flat_values @ (places + 2)}


def levels(content: bytes) -> str:
    """Size of a picture, and mean levels of 4 × 4 parts of each channel."""
    with Image.open(io.BytesIO(content)) as picture:
        return f"{picture.mode} {levels_of(np.asarray(picture.convert('RGB')))}"


def levels_of(pixels: np.ndarray) -> str:
    pixels = np.ma.filled(pixels, 0)
    pixels = (pixels * (255 if pixels.dtype.kind == "f" and pixels.max() <= 1 else 1)).astype(np.uint8)
    small = np.asarray(Image.fromarray(pixels).convert("RGB").resize((4, 4), Image.Resampling.BOX))
    return f"pixels {pixels.shape}: {' '.join(map(str, small.ravel()))}"


def flat(value: Any, name: str = "") -> Iterator[str]:
    """Lines `name = value` of nested values; lists of numbers or words are one line."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        yield f"{name} = {levels(value['bytes'])}"
    elif isinstance(value, Image.Image):
        yield f"{name} = {value.mode} {levels_of(np.asarray(value.convert('RGB')))}"
    elif isinstance(value, np.ndarray):
        yield from flat(value.tolist(), name)
    elif isinstance(value, dict):
        for key, of in value.items():
            if not VARYING.search(f"{key}."):
                yield from flat(of, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)) and any(
        isinstance(of, (dict, list, tuple, np.ndarray, Image.Image)) for of in value
    ):
        for place, of in enumerate(value):
            yield from flat(of, f"{name}[{place}]")
    elif isinstance(value, (list, tuple)):
        yield f"{name} = {' '.join(map(short, value))}"
    else:
        yield f"{name} = {short(value)}"


def short(value: Any) -> str:
    """A number with 5 digits, or a text."""
    return f"{value:.5g}" if isinstance(value, float) and not float(value).is_integer() else str(value)


def difference(expected: dict[str, list[str]], found: dict[str, list[str]]) -> str | None:
    """The first file and line that differ; `None` if none does."""
    for name in dict.fromkeys([*expected, *found]):
        if name not in expected or name not in found:
            return f"{name}: {'not expected' if name in found else 'missing'}"
        for number, (old, new) in enumerate(zip_padded(expected[name], found[name]), 1):
            if old != new and (old is None or new is None or not same(old, new)):
                return f"{name}, line {number}:\n  expected: {old}\n  found:    {new}"
    return None


def zip_padded(old: list[str], new: list[str]) -> Iterator[tuple]:
    length = max(len(old), len(new))
    return zip(*(lines + [None] * (length - len(lines)) for lines in (old, new)), strict=True)


def same(old: str, new: str) -> bool:
    """Whether lines differ by the rounding of decimal numbers alone, or a picture by 4 levels at most."""
    apart = 4 if "pixels " in old else 0
    parts = [NUMBER.split(line) for line in (old, new)]
    if len(parts[0]) != len(parts[1]) or parts[0][::2] != parts[1][::2]:
        return False
    return all(a == b or near(a, b, apart) for a, b in zip(parts[0][1::2], parts[1][1::2], strict=True))


def near(old: str, new: str, apart: float) -> bool:
    if not apart and not ({".", "e"} & {*old} and {".", "e"} & {*new}):
        return False
    _, _, decimals = old.partition("e")[0].partition(".")
    unit = 10 ** -len(decimals) if 0 < len(decimals) <= 2 else 0
    return abs(float(old) - float(new)) <= max(apart, 2e-3 * abs(float(old)), 1.01 * unit, 1e-6)


def read(name: str) -> dict[str, list[str]]:
    path = RECORDS / f"{name}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}


def write(name: str, lines: dict[str, list[str]]) -> None:
    """Write a record anew, and print its lines that differ."""
    old = read(name)
    for file in dict.fromkeys([*old, *lines]):
        sys.stdout.writelines(
            f"{line}\n" for line in unified_diff(old.get(file, []), lines.get(file, []), file, file, "", "", 0, "")
        )
    RECORDS.mkdir(exist_ok=True)
    text = json.dumps(lines, ensure_ascii=False, indent=0).encode()
    (RECORDS / f"{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    os.environ[WRITES] = "yes"
    sys.exit(pytest.main(["-s", "-q", "tests/test_golden.py", *sys.argv[1:]]))
