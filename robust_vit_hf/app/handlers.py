"""Event handlers of the page."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from ..evaluation.session import Session, open_session
from ..masks.choose_mask_maker import MaskSettings
from ..masks.tokencut import TokenCut
from ..relevance.layer_cam import RELEVANCE
from ..results.tables import Table
from ..utils.images import to_rgb
from . import other_backgrounds_tab as tab
from .explain_image import Explanation, compare_maps, picture_of, read_image
from .gallery import FILTERS, IMAGES_OF_A_PAGE, measured_set
from .options import AppOptions
from .samples import load_samples, own_samples


PREDICTED = -1  # stands for each model's prediction in the list of classes


@contextmanager
def in_page() -> Iterator[None]:
    """Decorator that shows expected errors as messages in the page."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from error


class Handlers:
    """Handlers of the events of the page, each of which returns the values of its outputs."""

    def __init__(self, options: AppOptions):
        self.options = options
        self.session = open_models(options)
        self.map_name = self.session.map_name  # `None` where the page shows no maps
        self.measured = lru_cache(maxsize=2)(lambda name: measured_set(options, name, self.session))
        own = options.dataset and own_samples(options.dataset, options.split, self.session)
        self.samples = own or load_samples(self.session.classes)
        self.diagnosed = None if options.diagnose is None else tab.read_diagnosis(options.diagnose, self.session)

    @cached_property
    def backgrounds(self) -> list[tab.Background]:
        return tab.other_backgrounds(self.session, self.diagnosed)

    @cached_property
    def cut(self) -> TokenCut:
        """TokenCut, which finds the object of an image. It is loaded for the first image."""
        side = self.session.sides["before"]
        return MaskSettings(None, self.options.mask_model, side.model, side.processor).of_features()[2]

    @cached_property
    def class_names(self) -> list[str]:
        """Class names, with the index added to repeated ones."""
        names = list(map(str, self.session.classes))
        counts = Counter(names)
        return [name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]

    @in_page()
    def explain(self, path: str | None, target: int, method: str, shown: dict | None) -> list[Any]:
        """Classes, maps, difference and scores shown for an image."""
        if path is None:
            return [None, None, None, None, ""]
        image, transparent = read_image(path)
        if transparent:
            gr.Warning("Parts of the image are transparent: the models see the colours that are stored there.")
        mask = shown["mask"] if shown is not None and shown["digest"] == digest_of(image) else None
        explained, difference = compare_maps(
            self.session, image, None if target == PREDICTED else target, method if self.map_name else None, mask
        )
        classes = self.class_names
        labels = [{classes[index]: score for index, score in side.top} for side in explained.values()]
        maps = [side.picture for side in explained.values()]
        if len(explained) == 1:
            maps, labels = [image.resize(maps[0].size), *maps], [*labels, None]
        table = measures(explained, classes, self.map_name)
        return [*labels, tuple(maps) if self.map_name else None, difference, table]

    @in_page()
    def choose_sample(self, event: gr.SelectData) -> list[Any]:
        sample = self.samples[event.index]
        return [sample.image, {"digest": digest_of(sample.image), "mask": sample.mask}]

    @in_page()
    def look(
        self,
        name: str | None,
        shown: str,
        page: float | None,
        progress=gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> list[Any]:
        if not name:
            return [[], [], "", 1]
        measured = self.measured(name)
        order = measured.order(shown)
        pages = max(1, -(-len(order) // IMAGES_OF_A_PAGE))
        page = min(int(page or 1), pages)  # an empty box is `None`
        indices = order[(page - 1) * IMAGES_OF_A_PAGE :][:IMAGES_OF_A_PAGE]
        images = [thumbnail(image) for image in measured.rows.dataset.select(indices)["image"]]
        top1 = " → ".join(f"{measured.result.accuracy(side):.1%}" for side in ("before", "after"))
        counts = ", ".join(f"{len(measured.order(kind))} {kind}" for kind in FILTERS[1:3])
        text = f"{len(order)} of {len(measured.result)} images. Top-1 {top1}: {counts}. Page {page} of {pages}."
        captions = measured.captions(indices, self.class_names)
        return [list(zip(images, captions, strict=True)), indices, text, page]

    @in_page()
    def choose_image(self, name: str, indices: list[int], event: gr.SelectData) -> list[Any]:
        measured, index = self.measured(name), indices[event.index]
        row, label = measured.rows.dataset[index], int(measured.result.classes[index])
        image = ImageOps.crop(to_rgb(row["image"]), measured.rows.border)
        shown = {"digest": digest_of(image), "mask": row.get("mask")}
        known = label >= 0 and measured.rows.by_class
        return [image, shown, label if known else PREDICTED, gr.Tabs(selected="explain")]

    @in_page()
    def conditions(self, shown: str, number: float | None, step: int = 0) -> list[Any]:
        """Verdict, and the image `number` + `step` of a kind in all conditions; the first image follows the last."""
        diagnosed = self.diagnosed
        if diagnosed is None:
            how = "To see your images on other backgrounds, start the page with `--diagnose` and an output of `robust-vit diagnose`."
            return [how, [], "", 1]
        order = diagnosed.order(shown)
        if not order:
            return [diagnosed.text, [], f"None of {len(diagnosed.examples)} images.", 1]
        place = (int(number or 1) - 1 + step) % len(order)
        example = diagnosed.examples[order[place]]
        text = f"Image {place + 1} of {len(order)}: `{example.label}`"
        return [diagnosed.text, tab.condition_pictures(example), text, place + 1]

    @in_page()
    def on_backgrounds(self, path: str | None) -> list[Any]:
        """The mask of an image's object, and the predictions for the object on other backgrounds."""
        if path is None:
            return [None, [], ""]
        image, _ = read_image(path)
        mask = tab.find_mask(self.cut, image)
        pictures, text = tab.pasted_pictures(self.session, image, mask, self.backgrounds)
        picture = picture_of(image)
        dimmed = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.75)
        return [Image.composite(picture, dimmed, mask.resize(picture.size)), pictures, text]


def open_models(options: AppOptions) -> Session:
    """A session with the models of the page, without sets and folder."""
    with open_session(options.model, options.compare, options.protocol) as session:
        for side in session.sides.values():
            side.model.eval().requires_grad_(False)
    return session


def measures(explained: dict[str, Explanation], classes: list[str], map_name: str | None = RELEVANCE) -> str:
    """Table of the explained classes and, if the models have maps, their agreement with the mask."""
    scores = {"mean_iou": "mIoU with mask", "energy": f"{map_name} on object"} if map_name else {}
    rows = []
    for side, of in explained.items():
        shown = ("–" if (score := of.agreement.get(name)) is None else f"{score:.1%}" for name in scores)
        rows.append([side if len(explained) > 1 else "model", classes[of.target], f"{of.score:.1%}", *shown])
    return Table("", ["", "class", "probability", *scores.values()], rows).markdown()


def thumbnail(image: Image.Image) -> Image.Image:
    small = to_rgb(image).copy()
    small.thumbnail((224, 224))
    return small


def digest_of(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
