"""The documents use one word for one thing: private names that were replaced do not come back."""

import re

import pytest

from .helpers.tiny import ROOT


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "experiments").glob("*.md"))]
INSTEAD = {
    r"habitual": "usual",
    r"foretell\w*|foretold": "estimate",
    r"at home": "on usual backgrounds",
    r"images as they are": "original images",
    r"taken for": "predicted as",
    r"mend(s|ed|ing)?": "improve, repair",
    r"prices?": "loss",
    r"(un)?resolved": "significant, inconclusive",
    r"mixtures?": "interpolation weight",
    r"certainly": "significantly",
    r"beside": "next to, in addition to",
    r"refuse[sd]?": "reject",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_private_names(page):
    """In text: not in code, addresses, and what is generated from results."""
    text = re.sub(r"<!-- results: .*?<!-- end of results -->|```.*?```", "", page.read_text(), flags=re.DOTALL)
    text = " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text).split())
    found = {match[0]: word for name, word in INSTEAD.items() for match in re.finditer(rf"(?i)\b({name})\b", text)}
    assert not found, f"words of {page.name}, and what to write instead"
