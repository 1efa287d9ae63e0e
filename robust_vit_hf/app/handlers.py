"""Event handlers of the page."""

import hashlib
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import gradio as gr
from PIL import Image

from ..evaluation.session import Session
from ..models.preprocessing import Preset
from ..utils.publishable import public_name
from .compare import Explanation, compare_maps, read_image
from .gallery import FILTERS, MeasuredSet, measured_set, set_names
from .options import GalleryOptions
from .samples import Sample, load_samples
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
    """Event handlers of the page. Each returns the values of its outputs.

    Args:
        preset: preprocessing of the models.
        options: options of the gallery.
    """

    def __init__(self, preset: Preset, options: GalleryOptions):
        self.preset, self.options = preset, options
        self.measured = while_unchanged(self._measured)

    def pair(self, names: Names) -> Session:
        """Session of two models. Errors are those of [`open_pair`]."""
        return open_pair(*names, self.preset)

    def _measured(self, before: str, after: str, name: str) -> MeasuredSet:
        return measured_set(self.options, name, self.pair((before, after)))

    @in_page
    def explain(self, path: str | None, target: int, method: str, names: Names, shown: dict | None) -> list[Any]:
        """Classes, maps, difference and scores shown for an image."""
        if path is None:
            return [None, None, None, None, ""]
        session = self.pair(names)
        image, transparent = read_image(path)
        if transparent:
            gr.Warning("The image is transparent in places: the models see the colours that are stored there.")
        known = shown if shown is not None and shown["digest"] == digest_of(image) else None
        mask = None if known is None else known["mask"]
        explained, difference = compare_maps(session, image, None if target == PREDICTED else target, method, mask)
        classes = distinct_names(session.classes)
        labels = [{classes[index]: score for index, score in side.top} for side in explained.values()]
        maps = tuple(side.picture for side in explained.values())
        return [*labels, maps, difference, measures(explained, classes)]

    @in_page
    def choose_sample(self, names: Names, event: gr.SelectData) -> list[Any]:
        sample = samples_of(self.pair(names))[event.index]
        return [sample.image, shown_image(sample.image, sample.mask)]

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
    def look(self, name: str | None, shown: str, page: int, names: Names, progress=gr.Progress(track_tqdm=True)):  # noqa: B008
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
        target = label if label >= 0 else PREDICTED
        return [image, shown_image(image, row.get("mask")), target, gr.Tabs(selected="explain")]


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


def samples_of(session: Session) -> list[Sample]:
    """Samples for the models of a session."""
    return _samples(tuple(session.classes))


_samples = lru_cache(maxsize=2)(load_samples)


def thumbnails(session: Session) -> list[tuple[Image.Image, str]]:
    return [(thumbnail(sample.image), sample.caption) for sample in samples_of(session)]


def thumbnail(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((224, 224))
    return small


def shown_image(image: Image.Image, mask: Image.Image | None) -> dict:
    """State of the shown image: its mask, until another image replaces it."""
    return {"digest": digest_of(image), "mask": mask}


def digest_of(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
