"""A report as one self-contained HTML file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from ..utils.files import write_atomically
from .tables import Table


PAGE_FILE = "report.html"


@dataclass(frozen=True)
class Picture:
    """A picture in a page: the `data:` URL `source`, with the CSS class `place`, such as `wide`."""

    caption: str
    alt: str
    source: str
    place: str = ""


@dataclass
class Section:
    """A section of a page, with `notes` as paragraphs below the title. Empty parts are left out."""

    title: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return any((self.tables, self.plots, self.notes))


def write_page(path: Path, title: str, facts: Mapping[str, str | None], sections: Sequence[Section]) -> None:
    """Write a page with `facts` below its title. It is the same for the same arguments, and all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("html_page_template.html")
    write_atomically(path, template.render(title=title, facts=facts, sections=sections))


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
