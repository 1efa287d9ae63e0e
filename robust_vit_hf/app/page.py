"""The page: an image explained, a gallery of evaluated images, and objects on other backgrounds."""

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
from ..relevance import ATTRIBUTION_METHOD_NAMES
from ..relevance.layer_cam import RELEVANCE
from ..results.tables import Table
from ..utils.images import to_rgb
from ..utils.privacy import public_name
from . import pictures
from .gallery import FILTERS, load_samples, measured_set, own_samples, set_names
from .options import LOOPBACK, AppOptions


PREDICTED = -1  # stands for each model's prediction in the list of classes
NUM_SHOWN = 96  # most images of a set in the gallery
HOW_TO_EVALUATE = """The gallery shows results of two models: give `--compare`, the model after finetuning, and `--results`, the
output of `robust-vit evaluate` with `--compare`."""
HOW_TO_DIAGNOSE = "To see your images on other backgrounds, give `--diagnose`, an output of `robust-vit diagnose`."
OUTPUT = {"interactive": False, "buttons": []}
GRID = OUTPUT | {"show_label": False, "height": "auto", "object_fit": "cover", "allow_preview": False}
PICTURES = GRID | {"columns": 7, "object_fit": "contain", "elem_classes": "pictures"}


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
        folder = options.diagnose
        self.diagnosed = None if folder is None else pictures.read_diagnosis(folder, self.session)

    @cached_property
    def backgrounds(self) -> list[pictures.Background]:
        return pictures.other_backgrounds(self.session, self.diagnosed)

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
        image, transparent = pictures.read_image(path)
        if transparent:
            gr.Warning("Parts of the image are transparent: the models see the colours that are stored there.")
        mask = shown["mask"] if shown is not None and shown["digest"] == digest_of(image) else None
        explained, difference = pictures.compare_maps(
            self.session, image, None if target == PREDICTED else target, method if self.map_name else None, mask
        )
        labels = [{self.class_names[index]: score for index, score in side.top} for side in explained.values()]
        maps = [side.picture for side in explained.values()]
        if len(explained) == 1:
            maps, labels = [image.resize(maps[0].size), *maps], [*labels, None]
        table = measures(explained, self.class_names, self.map_name)
        return [*labels, tuple(maps) if self.map_name else None, difference, table]

    @in_page()
    def choose_sample(self, event: gr.SelectData) -> list[Any]:
        sample = self.samples[event.index]
        return [sample.image, {"digest": digest_of(sample.image), "mask": sample.mask}]

    @in_page()
    def look(self, name: str | None, shown: str, progress=gr.Progress(track_tqdm=True)) -> list[Any]:  # noqa: B008
        """The images of a set that changed most, their row numbers, and how many there are."""
        if not name:
            return [[], [], ""]
        measured = self.measured(name)
        order = measured.order(shown)
        indices = order[:NUM_SHOWN]
        images = [thumbnail(image) for image in measured.rows.dataset.select(indices)["image"]]
        top1 = " → ".join(f"{measured.result.accuracy(side):.1%}" for side in ("before", "after"))
        counts = ", ".join(f"{len(measured.order(kind))} {kind}" for kind in FILTERS[1:3])
        text = f"{len(order)} of {len(measured.result)} images. Top-1 {top1}: {counts}."
        return [list(zip(images, measured.captions(indices, self.class_names), strict=True)), indices, text]

    @in_page()
    def choose_image(self, name: str, indices: list[int], event: gr.SelectData) -> list[Any]:
        measured, index = self.measured(name), indices[event.index]
        row, label = measured.rows.dataset[index], int(measured.result.classes[index])
        image = ImageOps.crop(to_rgb(row["image"]), measured.rows.border)
        shown = {"digest": digest_of(image), "mask": row.get("mask")}
        known = label >= 0 and measured.rows.by_class
        return [image, shown, label if known else PREDICTED, gr.Tabs(selected="explain")]

    @in_page()
    def conditions(self, shown: str, number: float | None) -> list[Any]:
        """An image of a kind in all conditions, by its number, and text. The first image follows the last."""
        order = self.diagnosed.order(shown)
        if not order:
            return [[], f"None of {len(self.diagnosed.examples)} images."]
        place = (int(number or 1) - 1) % len(order)
        example = self.diagnosed.examples[order[place]]
        return [pictures.condition_pictures(example), f"Image {place + 1} of {len(order)}: `{example.label}`"]

    @in_page()
    def on_backgrounds(self, path: str | None) -> list[Any]:
        """The mask of an image's object, and the predictions for the object on other backgrounds."""
        if path is None:
            return [None, [], ""]
        image, _ = pictures.read_image(path)
        mask = pictures.find_mask(self.cut, image)
        pasted, text = pictures.pasted_pictures(self.session, image, mask, self.backgrounds)
        picture = pictures.picture_of(image)
        dimmed = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.75)
        return [Image.composite(picture, dimmed, mask.resize(picture.size)), pasted, text]


def open_models(options: AppOptions) -> Session:
    """A session with the models of the page, without sets and folder."""
    with open_session(options.model, options.compare, options.protocol) as session:
        for side in session.sides.values():
            side.model.eval().requires_grad_(False)
    return session


def measures(explained: dict, classes: list[str], map_name: str | None = RELEVANCE) -> str:
    """Table of the explained classes and, if the models have maps, their agreement with the mask."""
    scores = {"mean_iou": "mIoU with mask", "energy": f"{map_name} on object"} if map_name else {}
    rows = []
    for side, of in explained.items():
        shown = (f"{of.agreement[name]:.1%}" if name in of.agreement else "–" for name in scores)
        rows.append([side if len(explained) > 1 else "model", classes[of.target], f"{of.score:.1%}", *shown])
    return Table("", ["", "class", "probability", *scores.values()], rows).markdown()


def thumbnail(image: Image.Image) -> Image.Image:
    small = to_rgb(image).copy()
    small.thumbnail((224, 224))
    return small


def digest_of(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def uploaded(name: str) -> gr.Image:
    """Image that a visitor gives, whose value is the path of the file."""
    kept = {"type": "filepath", "image_mode": None, "format": "png"}
    sources = ["upload", "clipboard"]
    image = gr.Image(
        label="Image: drop, paste or choose", sources=sources, buttons=[], height=300, elem_id=name, **kept
    )
    # Gradio would convert the file, lose its colour depth, and raise errors that name no remedy.
    image.preprocess = lambda payload: payload and payload.path
    return image


def make_page(options: AppOptions) -> gr.Blocks:
    """The page for a model, or for two."""
    answers = Handlers(options)
    compared, map_name, diagnosed = "after" in answers.session.sides, answers.map_name, answers.diagnosed
    local = options.host in LOOPBACK and not options.allowed_hosts  # allowed hosts are names of a proxy
    models = {"Model" if options.compare is None else "Before": options.model, "after": options.compare}
    names = [f"**{side}:** `{public_name(name)}`" for side, name in models.items() if name is not None]
    sets = set_names(options, answers.session)
    queue = {"concurrency_id": "models", "concurrency_limit": 1}  # one request at a time
    private = queue | {"api_visibility": "private"}
    with gr.Blocks(title="robust-vit", analytics_enabled=False) as page:
        shown = gr.State(None)  # digest and mask of the image that a visitor sees
        gr.Markdown("## What the model looks at\n" + " · ".join(names))
        with gr.Tabs(selected="explain") as tabs:
            with gr.Tab("Explain", id="explain"):
                gr.Markdown(
                    " ".join(["Click an example, or give an image of your own below.", *answers.session.without_map])
                )
                samples = [(thumbnail(sample.image), sample.caption) for sample in answers.samples]
                examples = gr.Gallery(samples, label="Examples", elem_id="examples", **GRID)
                with gr.Row():
                    with gr.Column(scale=2, min_width=300):
                        image = uploaded("image")
                        classes = [("predicted by each model", PREDICTED)]
                        classes += [(name, index) for index, name in enumerate(answers.class_names)]
                        target = gr.Dropdown(classes, value=PREDICTED, label="Class to explain", elem_id="target")
                        method = gr.Dropdown(
                            list(ATTRIBUTION_METHOD_NAMES),
                            value="gae",
                            label="Attribution method",
                            elem_id="method",
                            visible=map_name == RELEVANCE,
                        )
                    with gr.Column(scale=3, min_width=300, visible=map_name is not None):
                        label = f"{map_name}: before | after" if compared else f"Image | {map_name}"
                        maps = gr.ImageSlider(label=label, type="pil", buttons=[], max_height=520, elem_id="maps")
                with gr.Row():
                    of_side = {"num_top_classes": 5, "min_width": 280}
                    labels = [gr.Label(label="Best five classes, before", elem_id="before", **of_side)]
                    labels += [gr.Label(label="After", elem_id="after", visible=compared, **of_side)]
                    with gr.Column(min_width=280, visible=compared and map_name is not None):
                        label = "Change: green gained, pink lost"
                        difference = gr.Image(label=label, type="pil", height=300, elem_id="difference", **OUTPUT)
                table = gr.Markdown(elem_id="measures", elem_classes="tables")
            gr.on(
                [image.change, target.input, method.input],
                answers.explain,
                [image, target, method, shown],
                [*labels, maps, difference, table],
                api_name="explain",
                show_progress_on=[maps if map_name else labels[0]],
                trigger_mode="always_last",
                **queue,
            )
            examples.select(answers.choose_sample, None, [image, shown], **private)
            with gr.Tab("Gallery", id="gallery", visible=bool(sets) or local):
                with gr.Row(visible=bool(sets)):
                    name = gr.Dropdown(sets, value=None, label="Set", elem_id="set", min_width=200)
                    filtered = gr.Radio(list(FILTERS), value=FILTERS[0], label="Images", elem_id="filter", scale=2)
                text = "Choose a set. Click an image to explain it." if sets else HOW_TO_EVALUATE
                summary, indices = gr.Markdown(text, elem_id="summary"), gr.State([])
                images = gr.Gallery(elem_id="images", **GRID)
                to, shown_on = [images, indices, summary], {"show_progress_on": [images]}
                gr.on(
                    [name.change, filtered.input],
                    answers.look,
                    [name, filtered],
                    to,
                    api_name="gallery",
                    **shown_on,
                    **queue,
                )
                images.select(answers.choose_image, [name, indices], [image, shown, target, tabs], **private)
            with gr.Tab("Backgrounds", id="backgrounds"):
                gr.Markdown(diagnosed.text if diagnosed else HOW_TO_DIAGNOSE, elem_id="verdict")
                if diagnosed:
                    with gr.Row():
                        kind = gr.Radio(list(pictures.KINDS), value="all", label="Images", elem_id="kind", scale=3)
                        place = gr.Number(1, precision=0, label="Image", elem_id="place", min_width=100)
                    first, text = answers.conditions("all", 1)
                    which = gr.Markdown(text, elem_id="which")
                    composed = gr.Gallery(first, elem_id="conditions", **PICTURES)
                    gr.Markdown("✓ the class of the image · ● the class of the background · ✗ another")
                    changed = [kind.input, place.input]
                    gr.on(
                        changed, answers.conditions, [kind, place], [composed, which], api_name="conditions", **queue
                    )
                gr.Markdown("### An image of your own\nIts object is found and pasted on five other backgrounds.")
                with gr.Row():
                    given = uploaded("object")
                    mask = gr.Image(
                        label="The object that was found", height=300, elem_id="mask", type="pil", **OUTPUT
                    )
                changed, pasted = gr.Markdown(elem_id="changed"), gr.Gallery(elem_id="pasted", **PICTURES)
                gr.Markdown("✓ as on its own background · ● a class of the background · ✗ another")
                to, shown_on = [mask, pasted, changed], {"show_progress_on": [pasted]}
                given.change(answers.on_backgrounds, [given], to, api_name="backgrounds", **shown_on, **queue)
    return page
