"""Links between the documents of the repository lead to files and headings that there are."""

import re
from pathlib import Path

import pytest

from .helpers.tiny import ROOT


PAGES = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "experiments", "eval", "model_cards") for path in (ROOT / folder).rglob("*.md")),
]
PAGES = [page for page in PAGES if page.parent.name != "texts"]  # of which pages elsewhere are made


def anchors(page: Path) -> set[str]:
    """Ids that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    texts = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower().replace(" ", "-") for heading in headings)
    return {re.sub(r"[^\w-]", "", text) for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if not re.match(r"\w+:", target):
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target
