"""Tables as Markdown and LaTeX."""

import re
from dataclasses import dataclass


@dataclass
class Table:
    """Table of strings. The first column names the rows."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table as Markdown, without its title."""
        head, *rows = ("| " + " | ".join(map(_cell, row)) + " |" for row in (self.head, *self.rows))
        return "\n".join([head, "|---|" + "---:|" * (len(self.head) - 1), *rows])

    def latex(self) -> str:
        """The table as LaTeX (booktabs), with the title as caption."""
        import pandas as pd

        alignment = "l" + "r" * (len(self.head) - 1)
        head, *rows = ([" ".join(cell.split()) for cell in row] for row in (self.head, *self.rows))
        table = pd.DataFrame(rows, columns=head)
        return table.to_latex(index=False, escape=True, caption=_latex(self.title), column_format=alignment)


def _cell(text: str) -> str:
    """Text of a cell in Markdown, whatever a class or set is called."""
    text = re.sub(r"([\\|])", r"\\\1", text)
    return " ".join(text.replace("<", "&lt;").split())


def _latex(text: str) -> str:
    """Text in LaTeX, as pandas has it in cells."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda sign: signs.get(sign[0], f"\\{sign[0]}"), " ".join(text.split()))
