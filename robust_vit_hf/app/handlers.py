"""Event handlers of the page."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from PIL import Image

from ..evaluation.session import Session
from ..utils.publishable import public_name
from .compare import Explanation, compare_maps, read_image
from .gallery import FILTERS, measured_set, set_names
from .options import AppOptions
from .samples import load_samples
from .sessions import distinct_names, open_pair, while_unchanged


PREDICTED = -1  # in the list of classes: each model's own prediction
PAGE = 24  # images per page of the gallery
Names = tuple[str, str]  # of the models before and after


def in_page(function: Callable) -> Callable:
    """Decorator that shows expected errors as messages in the page."""

    @wraps(function)
    def handler(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from error

    return handler


class Handlers:
    """Handlers of the events of the page, each of which returns the values of its outputs."""

    def __init__(self, options: AppOptions):
        self.options = options
        self.measured = while_unchanged(
            lambda before, after, name: measured_set(options, name, self.pair((before, after)))
        )

    def pair(self, names: Names) -> Session:
        """The models by name. Errors are those of [`open_pair`]."""
        return open_pair(*names, self.options.preset)

    @in_page
    def explain(self, path: str | None, target: int, method: str, names: Names, shown: dict | None) -> list[Any]:
        """Classes, maps, difference and scores shown for an image."""
        if path is None:
            return [None, None, None, None, ""]
        session = self.pair(names)
        image, transparent = read_image(path)
        if transparent:
            gr.Warning("The image is transparent in places: the models see the colours that are stored there.")
        mask = shown["mask"] if shown is not None and shown["digest"] == digest_of(image) else None
        explained, difference = compare_maps(session, image, None if target == PREDICTED else target, method, mask)
        classes = distinct_names(session.classes)
        labels = [{classes[index]: score for index, score in side.top} for side in explained.values()]
        maps = tuple(side.picture for side in explained.values())
        return [*labels, maps, difference, measures(explained, classes)]

    @in_page
    def choose_sample(self, names: Names, event: gr.SelectData) -> list[Any]:
        sample = load_samples(tuple(self.pair(names).classes))[event.index]
        return [sample.image, {"digest": digest_of(sample.image), "mask": sample.mask}]

    @in_page
    def load_models(self, before: str, after: str) -> list[Any]:
        """Explain with other models."""
        names = (before.strip(), after.strip())
        if not all(names):
            raise ValueError("Name both models: a registered name, a folder or a Hub id.")
        session = self.pair(names)
        return [
            names,
            heading(*names),
            gr.Dropdown(choices=choices(session), value=PREDICTED),
            thumbnails(session),
            gr.Dropdown(choices=set_names(self.options, session), value=None),
            None,
            None,
        ]

    @in_page
    def look(
        self,
        name: str | None,
        shown: str,
        page: int,
        names: Names,
        progress=gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> list[Any]:
        """A page of the gallery of a set."""
        if not name:
            return [[], [], "", 1]
        measured = self.measured(*names, name)
        order = measured.order(shown)
        pages = max(1, -(-len(order) // PAGE))
        page = min(int(page), pages)
        indices = order[(page - 1) * PAGE : page * PAGE]
        images = [thumbnail(image) for image in measured.rows.dataset.select(indices)["image"]]
        top1 = " → ".join(f"{measured.result.accuracy(side):.1%}" for side in ("before", "after"))
        counts = ", ".join(f"{len(measured.order(kind))} {kind}" for kind in FILTERS[1:3])
        text = f"{len(order)} of {len(measured.result)} images. Top-1 {top1}: {counts}. Page {page} of {pages}."
        captions = measured.captions(indices, distinct_names(self.pair(names).classes))
        return [list(zip(images, captions, strict=True)), indices, text, page]

    @in_page
    def choose_image(self, name: str, indices: list[int], names: Names, event: gr.SelectData) -> list[Any]:
        measured, index = self.measured(*names, name), indices[event.index]
        row, label = measured.rows.dataset[index], int(measured.result.classes[index])
        image = row["image"].convert("RGB")
        shown = {"digest": digest_of(image), "mask": row.get("mask")}
        return [image, shown, label if label >= 0 else PREDICTED, gr.Tabs(selected="explain")]


def heading(before: str, after: str) -> str:
    return f"## What the model looks at\n**Before:** `{public_name(before)}` · **after:** `{public_name(after)}`"


def choices(session: Session) -> list[tuple[str, int]]:
    """Class choices: displayed names and indices."""
    names = distinct_names(session.classes)
    return [("predicted by each model", PREDICTED), *((name, index) for index, name in enumerate(names))]


def measures(explained: dict[str, Explanation], classes: list[str]) -> str:
    """Table of the explained classes and the agreement with the mask."""
    lines = ["| | class | probability | mIoU with mask | relevance on object |", "|---|---|---:|---:|---:|"]
    for side, of in explained.items():
        agreement = ("–" if value is None else f"{value:.1%}" for value in (of.mean_iou, of.energy))
        lines.append(f"| {side} | {classes[of.target]} | {of.score:.1%} | {' | '.join(agreement)} |")
    return "\n".join(lines)


def thumbnails(session: Session) -> list[tuple[Image.Image, str]]:
    return [(thumbnail(sample.image), sample.caption) for sample in load_samples(tuple(session.classes))]


def thumbnail(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((224, 224))
    return small


def digest_of(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
