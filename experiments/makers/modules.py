"""Print each module of the package with the first paragraph of its docstring.

    python -m experiments modules

They stand in the order of their paths.
"""

import ast
from pathlib import Path

import robust_vit_hf

from ..scripts import script_parser


def lines() -> list[str]:
    """A line for each package and module, in the order of their paths."""
    root = Path(robust_vit_hf.__file__).parent
    shown = []
    for path in sorted(root.rglob("*.py")):
        paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
        shown.append(f"{path.relative_to(root).as_posix()}: {' '.join(paragraph.split())}")
    return shown


def main() -> None:
    script_parser(__doc__).parse_args()
    print("\n".join(lines()))
