"""A report as one self-contained HTML file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from pyarrow import parquet as pq

from ..results.markdown_latex import Table
from ..results.plots import figure_bytes
from ..utils.files import write_atomically
from .relevance_examples import EXAMPLES_FILE, FEATURES, KINDS


PAGE_FILE = "report.html"


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Args:
        caption: shown below it.
        alt: alternative text.
        source: `data:` URL of the picture.
        place: CSS class for its layout, such as `wide` for a picture that scrolls on phones.
    """

    caption: str
    alt: str
    source: str
    place: str = ""


@dataclass(frozen=True)
class ClassChanges:
    """Changes of top-1 by class, in points, as a sortable table.

    Args:
        sets: names of the columns.
        rows: class name, change on each set, and mean over the sets with this class; `None` without images.
    """

    sets: list[str]
    rows: list[tuple[str, list[float | None]]]


@dataclass
class Section:
    """A section of a page. Empty parts are left out.

    Args:
        gallery: pictures of each example with its caption, by kind.
        notes: paragraphs below the title.
    """

    title: str
    tables: list[Table] = field(default_factory=list)
    plots: list[Picture] = field(default_factory=list)
    changes: ClassChanges | None = None
    gallery: dict[str, list[tuple[str, list[Picture]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return any((self.tables, self.plots, self.changes, self.gallery, self.notes))


def write_page(path: Path, title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Write a page. Output is deterministic, and all text is escaped.

    Args:
        facts: facts about the reported run, by name.
    """
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
    page = template.render(
        title=title, facts=facts, sections=sections, kinds=KINDS, script=Markup(script), script_digest=digest
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def plot(figure: Figure, caption: str, alt: str, place: str = "") -> Picture:
    """Convert a figure to a picture."""
    return Picture(caption, alt, _source("png", figure_bytes(figure, "png")), place)


def class_changes_table(changes: Mapping[str, Mapping[int, float]], names: Mapping[int, str]) -> ClassChanges | None:
    """Table of changes by set and label, given as fractions, from the most harmed to the most helped class by mean.
    `None` without sets."""
    labels = sorted({label for of_set in changes.values() for label in of_set})
    rows = []
    for label in labels:
        values = [of_set.get(label) for of_set in changes.values()]
        known = [value for value in values if value is not None]
        values.append(sum(known) / len(known))
        points = [None if value is None else round(100 * value, 9) + 0.0 for value in values]  # and not -0.0
        rows.append((names.get(label, str(label)), points))
    rows.sort(key=lambda row: row[1][-1])
    return ClassChanges([*changes, "mean"], rows) if rows else None


def add_gallery(section: Section, folder: Path) -> None:
    """Add the examples saved by a run or an evaluation to a section."""
    if not (folder / EXAMPLES_FILE).is_file():
        return
    for row in pq.read_table(folder / EXAMPLES_FILE, columns=list(FEATURES)).to_pylist():
        pictures = [
            Picture(row["label"], f"Image of the class {row['label']}.", _source("webp", row["image"]["bytes"]))
        ]
        for side in ("before", "after"):
            for target in ("predicted", "true"):
                if (picture := row[f"{side}_{target}"]) is not None:
                    name = row[f"predicted_{side}"] if target == "predicted" else row["label"]
                    alt = f"Relevance map {side} the finetuning, of the {target} class {name}."
                    pictures.append(
                        Picture(
                            f"{side}, {target}: {name}", alt, _source("webp", picture["bytes"]), f"{side}-{target}"
                        )
                    )
        caption = f"{row['set']}, row {row['row']}"
        if row["background_before"] is not None:
            shares = [f"{row[f'background_{side}']:.0%}" for side in ("before", "after")]
            caption += f". Relevance of the predicted class on the background: {shares[0]} before, {shares[1]} after"
        section.gallery.setdefault(row["kind"], []).append((caption, pictures))


def _source(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
