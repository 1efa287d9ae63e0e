"""A report as one self-contained HTML file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

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


@dataclass(frozen=True)
class Gallery:
    """Examples under a heading, each a caption with pictures, and the `rule` by which they were chosen."""

    title: str
    rule: str
    examples: list[tuple[str, list[Picture]]]


@dataclass
class Section:
    """A section of a page, with `notes` as paragraphs below the title. Empty parts are left out."""

    title: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Picture] = field(default_factory=list)
    changes: pd.DataFrame | None = None  # see [`class_changes_table`]
    galleries: list[Gallery] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return self.changes is not None or any((self.tables, self.plots, self.galleries, self.notes))


def write_page(path: Path, title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Write a page with `facts` below its title. It is the same for the same arguments, and all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = (Path(__file__).parent / "html_page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("html_page_template.html")
    # The browser runs only this script and loads nothing: see the policy in the template.
    page = template.render(title=title, facts=facts, sections=sections, script=Markup(script), script_digest=digest)
    write_atomically(path, page)


def class_changes_table(changes: Mapping[str, Mapping[int, float]], names: Mapping[int, str]) -> pd.DataFrame | None:
    """Changes of top-1 in points by class name, on each set and on average, sorted from the largest loss on."""
    table = pd.DataFrame(changes, dtype=float).sort_index()
    table = pd.concat([table, table.mean(axis=1).rename("mean")], axis=1)
    points = (100 * table).round(9) + 0.0  # turns -0.0 into 0.0
    points = points.iloc[points.iloc[:, -1].argsort(kind="stable")]
    return None if points.empty else points.rename(index=lambda label: names.get(label, str(label)))


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
