"""Texts with blocks that are made from results, and the results of benchmarks.

A block stands between `results: NAME` and `end of results`, in comments of Markdown or YAML.
"""

import json
import re
from functools import cache
from pathlib import Path

from ..benchmarks.outcomes import read_outcomes


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


def text(name: str, **values) -> str:
    """A text of the folder `texts` with values, by [`str.format`]. Its lines are joined to paragraphs."""
    source = (Path(__file__).parent / "texts" / f"{name}.md").read_text(encoding="utf-8").strip()
    return re.sub(r"(?<!\n)\n(?![\n-])", " ", source).format(**values)


@cache
def benchmark(name: str) -> dict:
    """Committed results of a benchmark, in JSON."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


@cache
def outcomes(name: str) -> tuple[dict[str, dict], dict]:
    """Committed outcomes of a benchmark by run, in parquet, and facts about all of them."""
    return read_outcomes(BENCHMARKS / f"{name}.parquet")


def by_group(name: str) -> dict[str, dict[str, dict]]:
    """The runs of [`outcomes`], by both parts of their names."""
    groups: dict[str, dict[str, dict]] = {}
    for run, values in outcomes(name)[0].items():
        group, _, part = run.partition("/")
        groups.setdefault(group, {})[part] = values
    return groups


def commits_of(name: str) -> str:
    """Which commits the results of a benchmark were made with, as a part of a sentence."""
    path = BENCHMARKS / f"{name}.json"
    text = path.read_text(encoding="utf-8") if path.is_file() else json.dumps(outcomes(name))
    found = re.findall(r'"commit": "([^"]+)"', text)
    short = {commit[:8] + "-dirty" * commit.endswith("-dirty") for commit in found}
    file = path if path.is_file() else path.with_suffix(".parquet")
    return f"`{file.name}` was made with {', '.join(sorted(short))}"
