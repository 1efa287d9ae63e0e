"""Texts with blocks that are made from results, and the results of benchmarks.

A block stands between `results: NAME` and `end of results`, in comments of Markdown or YAML.
"""

import json
import re
from functools import cache
from pathlib import Path


ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "experiments" / "benchmarks"
RESULTS = ROOT / "experiments" / "results"
TESTED = RESULTS / "results.parquet"  # all methods at the chosen settings, on test images
BLOCK = re.compile(r"((?:<!--|#) results: ([a-z ]+)(?: -->)?\n).*?((?:<!--|#) end of results)", re.DOTALL)


def texts() -> list[Path]:
    """README, docs, pages of this folder and recipes that have blocks."""
    patterns = ("README.md", "docs/*.md", "experiments/*.md", "robust_vit_hf/training/recipe_files/*.yaml")
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path for path in paths if BLOCK.search(path.read_text(encoding="utf-8"))]


@cache
def benchmark(name: str) -> dict:
    """Committed results of a benchmark."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


def commits_of(name: str) -> str:
    """Which commits the results of a benchmark were made with, as a part of a sentence."""
    found = re.findall(r'"commit": "([^"]+)"', (BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))
    short = {commit[:8] + "-dirty" * commit.endswith("-dirty") for commit in found}
    return f"`{name}.json` was made with {', '.join(sorted(short))}"
