"""Writes the map of the package in `docs/design.md` from the docstrings of its packages and modules.

python -m tests.helpers.design
"""

import ast
from pathlib import Path

from ..test_layout import ORDER
from .tiny import ROOT


PAGE, PACKAGE = ROOT / "docs" / "design.md", ROOT / "robust_vit_hf"
BEGIN, END = "<!-- map: made by `python -m tests.helpers.design` -->", "<!-- end of map -->"


def summary(path: Path) -> str:
    """First paragraph of a module's docstring, in one line."""
    return " ".join(ast.get_docstring(ast.parse(path.read_text())).partition("\n\n")[0].split())


def package_map() -> str:
    """A heading and sentence for each package, and a line for each of its modules."""
    lines = []
    for name in ORDER:
        lines += [f"**`{name}/`** {summary(PACKAGE / name / '__init__.py')}", ""]
        paths = sorted(
            path for path in (PACKAGE / name).rglob("*.py") if path.name not in ("__init__.py", "__main__.py")
        )
        lines += [f"- `{path.relative_to(PACKAGE / name).as_posix()}`: {summary(path)}" for path in paths]
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """The page with a new map."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n\n{package_map()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page())
