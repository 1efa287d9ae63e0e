"""Writes the table of supported architectures from the tests of `test_architectures.py`, which it runs.

python -m tests.helpers.supported
"""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from .families import FAMILIES


PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
MARKERS = ("<!-- supported: written by `python -m tests.helpers.supported` -->\n", "<!-- end of supported -->")
CHECKS = {
    "test_head_reads": "head",
    "test_map": "map",
    "test_gradient": "gradient",
    "test_attribution_methods": "attribution methods",
    "test_training": "finetuning",
    "test_lora": "LoRA",
}


class Recorder:
    """pytest plugin that notes the outcomes of each check of each family."""

    def __init__(self):
        self.outcomes: dict[tuple[str, str], set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return  # set-up and tear-down
        check, _, parameters = report.nodeid.rpartition("::")[2].partition("[")
        name = re.sub(r"^\d+-\d+-", "", parameters.removesuffix("]"))  # without the image size
        self.outcomes[check, name].add(report.outcome)


def table(outcomes: dict[tuple[str, str], set[str]]) -> str:
    """Markdown: ✓ where every test of a check passed, ✗ where one did not, nothing where none ran."""
    lines = [f"| architecture | head reads | {' | '.join(CHECKS.values())} |", f"|---|---|{':---:|' * len(CHECKS)}"]
    for name, family in FAMILIES.items():
        seen = [outcomes.get((check, name), set()) for check in CHECKS]
        marks = ["" if not some else "✓" if some == {"passed"} else "✗" for some in seen]
        lines.append(f"| {name} (`{family.model_class.__name__}`) | {family.reads} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def in_docs() -> str:
    """The table in the documentation."""
    return PAGE.read_text(encoding="utf-8").split(MARKERS[0])[1].split(MARKERS[1])[0]


if __name__ == "__main__":
    recorder = Recorder()
    pytest.main(
        ["-q", "-p", "no:cacheprovider", str(Path(__file__).parents[1] / "relevance" / "test_architectures.py")],
        [recorder],
    )
    written = table(recorder.outcomes)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKERS[0])
    PAGE.write_text(before + MARKERS[0] + written + rest[rest.index(MARKERS[1]) :], encoding="utf-8")
    raise SystemExit("✗" in written)
