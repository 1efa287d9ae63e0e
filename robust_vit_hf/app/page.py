"""The page: an image explained by both models, a gallery of evaluated images, and the tables of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from ..evaluation.session import Session
from ..models.preprocessing import Preset
from ..relevance.method_names import ATTRIBUTION_METHOD_NAMES
from .gallery import FILTERS, set_names
from .handlers import PREDICTED, Handlers, choices, heading, thumbnails
from .options import GalleryOptions
from .runs import Report, find_reports


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
# A grid of pictures to click.
GRID = {
    "show_label": False,
    "height": "auto",
    "object_fit": "cover",
    "allow_preview": False,
    "buttons": [],
    "interactive": False,
}


@dataclass(frozen=True)
class ExplainTab:
    """Components of the first tab."""

    examples: gr.Gallery
    image: gr.Image
    target: gr.Dropdown
    method: gr.Dropdown
    maps: gr.ImageSlider
    before: gr.Label
    after: gr.Label
    difference: gr.Image
    measures: gr.Markdown


@dataclass(frozen=True)
class ModelsForm:
    """Components for choosing other models."""

    before: gr.Textbox
    after: gr.Textbox
    load: gr.Button


@dataclass(frozen=True)
class GalleryTab:
    """Components of the gallery, and indices of the images shown."""

    set_name: gr.Dropdown
    filter: gr.Radio
    page: gr.Number
    summary: gr.Markdown
    indices: gr.State
    images: gr.Gallery


@dataclass(frozen=True)
class State:
    """State of a visitor: names of the models and the shown image; also the component that shows the names."""

    names: gr.State
    shown: gr.State
    title: gr.Markdown
    tabs: gr.Tabs


def build_page(before: str, after: str, preset: Preset, options: GalleryOptions, choose_models: bool) -> gr.Blocks:
    """Build the page for two models.

    Args:
        before, after, preset: as for [`open_pair`].
        options: options of the gallery.
        choose_models: whether visitors may load other models, from local folders or the Hub.

    Raises:
        OSError, ValueError: as [`open_pair`] and [`set_names`].
    """
    handlers = Handlers(preset, options)
    session = handlers.pair((before, after))
    sets, reports = set_names(options, session), find_reports(after, options.results)
    with gr.Blocks(title="robust-vit", analytics_enabled=False, delete_cache=(60, 1800)) as page:
        names, shown = gr.State((before, after)), gr.State(None)
        title = gr.Markdown(heading(before, after))
        with gr.Tabs(selected="explain") as tabs:
            with gr.Tab("Explain an image", id="explain"):
                explain = explain_tab(session)
                models = models_form(before, after) if choose_models else None
            with gr.Tab("Gallery", id="gallery", visible=bool(sets) or choose_models):
                gallery = gallery_tab(sets)
            if reports:
                with gr.Tab("Run", id="run"):
                    run_tab(reports)
        add_events(handlers, State(names, shown, title, tabs), explain, gallery, models)
    return page


def explain_tab(session: Session) -> ExplainTab:
    gr.Markdown("Click an example, or give an image of your own below.")
    examples = gr.Gallery(thumbnails(session), label="Examples", elem_id="examples", **GRID)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = image_input()
            target = gr.Dropdown(
                choices(session), value=PREDICTED, label="Class to explain", elem_id="target", filterable=True
            )
            method = gr.Dropdown(
                list(ATTRIBUTION_METHOD_NAMES), value="gae", label="Attribution method", elem_id="method"
            )
        with gr.Column(scale=3, min_width=300):
            maps = gr.ImageSlider(
                label="Relevance: before | after", type="pil", buttons=[], max_height=520, elem_id="maps"
            )
    with gr.Row():
        before, after = (
            gr.Label(label=f"{side.capitalize()}: best five classes", num_top_classes=5, elem_id=side, min_width=280)
            for side in ("before", "after")
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
    measures = gr.Markdown(elem_id="measures", elem_classes="tables")
    return ExplainTab(examples, image, target, method, maps, before, after, difference, measures)


def image_input() -> gr.Image:
    """Image upload. Handlers get the original file, since Gradio's conversion loses bit depth and its errors suggest
    no remedy."""
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
    return image


def models_form(before: str, after: str) -> ModelsForm:
    with gr.Accordion("Models", open=False, elem_id="models"):
        with gr.Row():
            name_before = gr.Textbox(before, label="Before: name, folder or Hub id", min_width=280)
            name_after = gr.Textbox(after, label="After: name, folder or Hub id", min_width=280)
        return ModelsForm(name_before, name_after, gr.Button("Load models"))


def gallery_tab(sets: list[str]) -> GalleryTab:
    with gr.Row():
        set_name = gr.Dropdown(sets, value=None, label="Set", elem_id="set", min_width=200)
        kind = gr.Radio(list(FILTERS), value=FILTERS[0], label="Images", elem_id="filter", scale=2, min_width=280)
        number = gr.Number(1, precision=0, minimum=1, label="Page", elem_id="page", min_width=120)
    summary = gr.Markdown("Choose a set. Click an image to see its maps.")
    return GalleryTab(set_name, kind, number, summary, gr.State([]), gr.Gallery(elem_id="images", **GRID))


def run_tab(reports: Sequence[Report]) -> None:
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


def add_events(
    handlers: Handlers, state: State, explain: ExplainTab, gallery: GalleryTab, models: ModelsForm | None
) -> None:
    """Connect components to handlers."""
    # Models answer one request at a time; others wait in the queue.
    queue = {"concurrency_id": "models", "concurrency_limit": 1}
    gr.on(
        [explain.image.change, explain.target.input, explain.method.input],
        handlers.explain,
        [explain.image, explain.target, explain.method, state.names, state.shown],
        [explain.before, explain.after, explain.maps, explain.difference, explain.measures],
        api_name="explain",
        show_progress_on=[explain.maps],
        trigger_mode="always_last",
        **queue,
    )
    chosen = [explain.image, state.shown]
    explain.examples.select(handlers.choose_sample, [state.names], chosen, api_visibility="private", **queue)
    gr.on(
        [gallery.set_name.change, gallery.filter.input, gallery.page.input],
        handlers.look,
        [gallery.set_name, gallery.filter, gallery.page, state.names],
        [gallery.images, gallery.indices, gallery.summary, gallery.page],
        api_name="gallery",
        show_progress_on=[gallery.images],
        **queue,
    )
    gallery.images.select(
        handlers.choose_image,
        [gallery.set_name, gallery.indices, state.names],
        [*chosen, explain.target, state.tabs],
        api_visibility="private",
        **queue,
    )
    if models is not None:
        models.load.click(
            handlers.load_models,
            [models.before, models.after],
            [state.names, state.title, explain.target, explain.examples, gallery.set_name, *chosen],
            api_name="load_models",
            **queue,
        )
