"""The page: an image explained by both models, a gallery of evaluated images, and the tables of a run."""

import hashlib
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import gradio as gr
from PIL import Image

from ..models.preprocessing import Preset
from ..relevance.method_names import ATTRIBUTION_METHOD_NAMES
from ..utils.publishable import public_name
from .examples import load_examples
from .explain import Explanation, explain, read_image
from .gallery import FILTERS, MeasuredSet, Sources, captions, measured_set, set_names
from .pair import Pair, load_pair
from .runs import find_reports


PREDICTED = -1  # in the list of classes: each model's own prediction
PAGE = 24  # images of the gallery at once
STYLE = """
.gradio-container {width: 100% !important; max-width: 1200px !important; margin: 0 auto !important}
#examples .grid-wrap, #images .grid-wrap {max-height: none !important; min-height: 0; height: auto !important}
#examples .grid-container {grid-template-columns: repeat(12, minmax(0, 1fr)) !important; gap: 6px}
#images .grid-container {grid-template-columns: repeat(6, minmax(0, 1fr)) !important}
#examples .caption-label {display: none}
#images .caption-label {font-size: 11px; max-width: 100%; white-space: normal}
#image .image-frame img {object-fit: contain !important}
#examples .thumbnail-lg {aspect-ratio: 1; height: auto !important}
.tables {overflow-x: auto}
.tables th, .tables td {white-space: nowrap}
@media (max-width: 640px) {
  #examples .grid-container {grid-template-columns: repeat(6, minmax(0, 1fr)) !important}
  #images .grid-container {grid-template-columns: repeat(2, minmax(0, 1fr)) !important}
}
"""

examples_of = lru_cache(maxsize=2)(load_examples)


def in_page(function: Callable) -> Callable:
    """A handler whose expected errors are messages in the page."""

    @wraps(function)
    def handler(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(" ".join(str(error).split()), duration=None, print_exception=False) from error

    return handler


def build_page(before: str, after: str, preset: Preset, sources: Sources, choose_models: bool) -> gr.Blocks:
    """The page for two models, which other ones can replace where `choose_models`.

    Args:
        before, after, preset: as for [`load_pair`].
        sources: of the gallery.
        choose_models: whether a visitor may load other models, which are folders of this machine or Hub ids.

    Raises:
        OSError, ValueError: as [`load_pair`] and [`set_names`].
    """
    pair = load_pair(before, after, preset)
    sets = set_names(sources, pair)

    @in_page
    def show(path: str | None, target: int, method: str, names: tuple[str, str], shown: dict | None) -> list[Any]:
        """Classes, maps, difference and measures of an image: what the page shows of it."""
        if path is None:
            return [None, None, None, None, ""]
        pair = load_pair(*names, preset)
        image, transparent = read_image(path)
        if transparent:
            gr.Warning("The image is transparent in places: the models see the colours that are stored there.")
        known = shown if shown is not None and shown["digest"] == digest_of(image) else None
        mask = None if known is None else known["mask"]
        explained, difference = explain(pair, image, None if target == PREDICTED else target, method, mask)
        labels = [{pair.class_name(index): score for index, score in side.top} for side in explained.values()]
        maps = tuple(side.picture for side in explained.values())
        return [*labels, maps, difference, measures(explained, pair)]

    @in_page
    def choose_example(names: tuple[str, str], event: gr.SelectData) -> list[Any]:
        example = examples_of(tuple(load_pair(*names, preset).classes))[event.index]
        return [example.image, {"digest": digest_of(example.image), "mask": example.mask}]

    @in_page
    def load_models(before: str, after: str) -> list[Any]:
        """Explain with other models."""
        names = (before.strip(), after.strip())
        if not all(names):
            raise ValueError("Name both models: a registered name, a folder or a Hub id.")
        pair = load_pair(*names, preset)
        names_of_sets = set_names(sources, pair)
        return [
            names,
            heading(*names),
            gr.Dropdown(choices=choices(pair), value=PREDICTED),
            thumbnails(pair),
            gr.Dropdown(choices=names_of_sets, value=None),
            None,
            None,
        ]

    @in_page
    def look(name: str | None, shown: str, page: int, names: tuple[str, str], progress=gr.Progress(track_tqdm=True)):  # noqa: B008
        """A page of the gallery of a set."""
        if not name:
            return [[], [], "", 1]
        measured, pair = measured_of(name, names), load_pair(*names, preset)
        order = measured.order(shown)
        pages = max(1, -(-len(order) // PAGE))
        page = min(int(page), pages)
        indices = order[(page - 1) * PAGE : page * PAGE]
        images = [thumbnail(image) for image in measured.rows.dataset.select(indices)["image"]]
        right = [result.correct()[measured.before.usable].mean() for result in (measured.before, measured.after)]
        counts = ", ".join(f"{len(measured.order(kind))} {kind}" for kind in FILTERS[1:3])
        text = f"{len(order)} of {len(measured.before.predictions)} images. Top-1 {right[0]:.1%} → {right[1]:.1%}: {counts}. Page {page} of {pages}."
        texts = captions(measured, indices, pair)
        return [list(zip(images, texts, strict=True)), indices, text, page]

    @lru_cache(maxsize=2)
    def measured_of(name: str, names: tuple[str, str]) -> MeasuredSet:
        return measured_set(sources, name, load_pair(*names, preset), preset)

    @in_page
    def choose_image(name: str, indices: list[int], names: tuple[str, str], event: gr.SelectData) -> list[Any]:
        measured = measured_of(name, names)
        row, label = measured.rows.dataset[indices[event.index]], int(measured.before.classes[indices[event.index]])
        image = row["image"].convert("RGB")
        shown = {"digest": digest_of(image), "mask": row.get("mask")}
        return [image, shown, label if label >= 0 else PREDICTED, gr.Tabs(selected="explain")]

    def thumbnails(pair: Pair) -> list[tuple[Image.Image, str]]:
        return [(thumbnail(example.image), example.caption) for example in examples_of(tuple(pair.classes))]

    # Models answer one request at a time; others wait in the queue.
    queue = {"concurrency_id": "models", "concurrency_limit": 1}
    with gr.Blocks(title="robust-vit", analytics_enabled=False, delete_cache=(60, 1800)) as page:
        names, shown = gr.State((before, after)), gr.State(None)
        title = gr.Markdown(heading(before, after))
        with gr.Tabs(selected="explain") as tabs:
            with gr.Tab("Explain an image", id="explain"):
                gr.Markdown("Click an example, or give an image of your own below.")
                examples = gr.Gallery(
                    thumbnails(pair),
                    label="Examples",
                    show_label=False,
                    height="auto",
                    object_fit="cover",
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    elem_id="examples",
                )
                with gr.Row():
                    with gr.Column(scale=2, min_width=300):
                        # The file as it is: a conversion by Gradio would lose depth, and its errors name no remedy.
                        image = gr.Image(
                            label="Image: drop, paste or choose",
                            type="filepath",
                            image_mode=None,
                            format="png",
                            sources=["upload", "clipboard"],
                            buttons=[],
                            height=300,
                            elem_id="image",
                        )
                        image.preprocess = lambda payload: payload and payload.path
                        target = gr.Dropdown(
                            choices(pair), value=PREDICTED, label="Class to explain", elem_id="target", filterable=True
                        )
                        method = gr.Dropdown(
                            list(ATTRIBUTION_METHOD_NAMES), value="gae", label="Attribution method", elem_id="method"
                        )
                    with gr.Column(scale=3, min_width=300):
                        slider = gr.ImageSlider(
                            label="Relevance: before | after", type="pil", buttons=[], max_height=520, elem_id="maps"
                        )
                with gr.Row():
                    label_before = gr.Label(
                        label="Before: best five classes", num_top_classes=5, elem_id="before", min_width=280
                    )
                    label_after = gr.Label(
                        label="After: best five classes", num_top_classes=5, elem_id="after", min_width=280
                    )
                    with gr.Column(min_width=280):
                        difference = gr.Image(
                            label="Change: red gained, blue lost",
                            type="pil",
                            interactive=False,
                            buttons=[],
                            height=300,
                            elem_id="difference",
                        )
                measured = gr.Markdown(elem_id="measures", elem_classes="tables")
                if choose_models:
                    with gr.Accordion("Models", open=False, elem_id="models"):
                        with gr.Row():
                            name_before = gr.Textbox(before, label="Before: name, folder or Hub id", min_width=280)
                            name_after = gr.Textbox(after, label="After: name, folder or Hub id", min_width=280)
                        load = gr.Button("Load models")
            with gr.Tab("Gallery", id="gallery", visible=bool(sets) or choose_models):
                with gr.Row():
                    set_name = gr.Dropdown(sets, value=None, label="Set", elem_id="set", min_width=200)
                    kind = gr.Radio(
                        list(FILTERS), value=FILTERS[0], label="Images", elem_id="filter", scale=2, min_width=280
                    )
                    number = gr.Number(1, precision=0, minimum=1, label="Page", elem_id="page", min_width=120)
                summary = gr.Markdown("Choose a set. Click an image to see its maps.")
                indices = gr.State([])
                images = gr.Gallery(
                    height="auto",
                    object_fit="cover",
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    show_label=False,
                    elem_id="images",
                )
            if reports := find_reports(after, sources.results):
                with gr.Tab("Run", id="run"):
                    for report in reports:
                        with gr.Accordion(report.title, open=len(reports) == 1):
                            gr.Markdown(report.tables, elem_classes="tables")
                            for plot in report.plots:
                                gr.Image(
                                    plot,
                                    show_label=False,
                                    alt_text=plot.stem.replace("_", " "),
                                    interactive=False,
                                    buttons=[],
                                    format="png",
                                )

        outputs = [label_before, label_after, slider, difference, measured]
        gr.on(
            [image.change, target.input, method.input],
            show,
            [image, target, method, names, shown],
            outputs,
            api_name="explain",
            show_progress_on=[slider],
            trigger_mode="always_last",
            **queue,
        )
        examples.select(choose_example, [names], [image, shown], api_visibility="private", **queue)
        look_inputs, look_outputs = [set_name, kind, number, names], [images, indices, summary, number]
        gr.on(
            [set_name.change, kind.input, number.input],
            look,
            look_inputs,
            look_outputs,
            api_name="gallery",
            show_progress_on=[images],
            **queue,
        )
        images.select(
            choose_image, [set_name, indices, names], [image, shown, target, tabs], api_visibility="private", **queue
        )
        if choose_models:
            load.click(
                load_models,
                [name_before, name_after],
                [names, title, target, examples, set_name, image, shown],
                api_name="load_models",
                **queue,
            )
    return page


def heading(before: str, after: str) -> str:
    return f"## What the model looks at\n**Before:** `{public_name(before)}` · **after:** `{public_name(after)}`"


def choices(pair: Pair) -> list[tuple[str, int]]:
    """The list of classes: names as shown, and indices."""
    return [("predicted by each model", PREDICTED), *((pair.class_name(i), i) for i in range(len(pair.classes)))]


def measures(explained: dict[str, Explanation], pair: Pair) -> str:
    """A table of the explained classes, and of the agreement with the mask."""
    lines = ["| | class | probability | mIoU with mask | relevance on object |", "|---|---|---:|---:|---:|"]
    for side, of in explained.items():
        agreement = ("–" if value is None else f"{value:.1%}" for value in (of.mean_iou, of.energy))
        lines.append(f"| {side} | {pair.class_name(of.target)} | {of.score:.1%} | {' | '.join(agreement)} |")
    return "\n".join(lines)


def digest_of(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def thumbnail(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((224, 224))
    return small
