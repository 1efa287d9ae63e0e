"""Documents, docstrings and messages use one word for one thing: private names that were replaced do not come back."""

import ast
import re

import pytest

from .helpers.tiny import ROOT


FOLDERS = {"docs": "*.md"} | dict.fromkeys(("experiments", "robust_vit_hf", "eval", "trainer"), "**/*.[mp][dy]")
PAGES = [ROOT / "README.md", *(page for name, files in FOLDERS.items() for page in sorted((ROOT / name).glob(files)))]
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
    """In text and in what is generated from results: not in code and addresses."""
    text = page.read_text()
    if page.suffix == ".py":
        strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        text = "\n".join(string for string in strings if isinstance(string, str) and " " in string)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text).split())
    found = {match[0]: word for name, word in INSTEAD.items() for match in re.finditer(rf"(?i)\b({name})\b", text)}
    assert not found, f"words of {page.name}, and what to write instead"
