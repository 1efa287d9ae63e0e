"""The page: an image explained, a gallery of evaluated images, objects on other backgrounds, and tables of a run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gradio as gr

from ..evaluation.examples import FIGURE_FILE
from ..evaluation.session import TABLES_FILE
from ..relevance import ATTRIBUTION_METHOD_NAMES
from ..relevance.layer_cam import RELEVANCE
from ..utils.privacy import public_name
from .gallery import FILTERS, how_to_fill, set_names
from .handlers import PREDICTED, Handlers, thumbnail
from .options import LOOPBACK, AppOptions
from .other_backgrounds_tab import KINDS


OUTPUT = {"interactive": False, "buttons": []}
GRID = OUTPUT | {"show_label": False, "height": "auto", "object_fit": "cover", "allow_preview": False}
PICTURES = GRID | {"columns": 7, "object_fit": "contain", "elem_classes": "pictures"}
MARKS = "✓ the class of the image · ● the class of the background · ✗ another"


class Page:
    """The page for a model, or for two. Its components are attributes."""

    def __init__(self, options: AppOptions):
        local = options.host in LOOPBACK and not options.allowed_hosts  # allowed hosts are names of a proxy
        self.handlers = Handlers(options)
        models = {"Model" if options.compare is None else "Before": options.model, "after": options.compare}
        names = [f"**{side}:** `{public_name(name)}`" for side, name in models.items() if name is not None]
        sets = set_names(options, self.handlers.session)
        outputs = [Path(folder) for folder in (options.compare, options.results) if folder is not None]
        reports = [folder for folder in outputs if (folder / TABLES_FILE).is_file()]
        with gr.Blocks(title="robust-vit", analytics_enabled=False) as self.blocks:
            self.shown = gr.State(None)  # digest and mask of the image that a visitor sees
            gr.Markdown("## What the model looks at\n" + " · ".join(names))
            with gr.Tabs(selected="explain") as self.tabs:
                with gr.Tab("Explain", id="explain"):
                    self.add_explanation()
                with gr.Tab("Gallery", id="gallery", visible=bool(sets) or local):
                    self.add_gallery(sets, how_to_fill(options) if local else "")
                with gr.Tab("Backgrounds", id="backgrounds"):
                    self.add_backgrounds()
                if reports:
                    with gr.Tab("Run", id="run"):
                        self.add_reports(reports)
            self.add_events()

    def add_explanation(self) -> None:
        compared, map_name = "after" in self.handlers.session.sides, self.handlers.map_name
        gr.Markdown("Click an example, or give an image of your own below.")
        if notes := self.handlers.session.without_map:
            gr.Markdown(" ".join(notes))
        samples = [(thumbnail(sample.image), sample.caption) for sample in self.handlers.samples]
        self.examples = gr.Gallery(samples, label="Examples", elem_id="examples", **GRID)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.image = uploaded("image")
                names = [("predicted by each model", PREDICTED)]
                names += [(name, index) for index, name in enumerate(self.handlers.class_names)]
                self.target = gr.Dropdown(names, value=PREDICTED, label="Class to explain", elem_id="target")
                methods = {"choices": list(ATTRIBUTION_METHOD_NAMES), "value": "gae", "elem_id": "method"}
                self.method = gr.Dropdown(**methods, label="Attribution method", visible=map_name == RELEVANCE)
            with gr.Column(scale=3, min_width=300, visible=map_name is not None):
                label = f"{map_name}: before | after" if compared else f"Image | {map_name}"
                self.maps = gr.ImageSlider(label=label, type="pil", buttons=[], max_height=520, elem_id="maps")
        with gr.Row():
            self.labels = [
                gr.Label(
                    label=f"{name}: best five classes" if compared else "Best five classes",
                    num_top_classes=5,
                    elem_id=name.lower(),
                    min_width=280,
                    visible=compared or name == "Before",
                )
                for name in ("Before", "After")
            ]
            with gr.Column(min_width=280, visible=compared and map_name is not None):
                label = "Change: green gained, pink lost"
                self.difference = gr.Image(label=label, type="pil", height=300, elem_id="difference", **OUTPUT)
        self.measures = gr.Markdown(elem_id="measures", elem_classes="tables")

    def add_gallery(self, sets: Sequence[str], remedy: str) -> None:
        with gr.Row(visible=bool(sets)) as self.chooser:
            self.set_name = gr.Dropdown(sets, value=None, label="Set", elem_id="set", min_width=200)
            kinds = {"value": FILTERS[0], "label": "Images", "elem_id": "filter"}
            self.filter = gr.Radio(list(FILTERS), scale=2, min_width=280, **kinds)
            self.number = gr.Number(1, precision=0, minimum=1, label="Page", elem_id="page", min_width=120)
        self.summary = gr.Markdown(
            "Choose a set. Click an image to explain it." if sets else remedy, elem_id="summary"
        )
        self.indices, self.images = gr.State([]), gr.Gallery(elem_id="images", **GRID)

    def add_backgrounds(self) -> None:
        diagnosed = self.handlers.diagnosed
        verdict, conditions, place, number = self.handlers.conditions(KINDS[0], 1)
        self.verdict = gr.Markdown(verdict, elem_id="verdict")
        with gr.Column(visible=diagnosed is not None):
            with gr.Row():
                self.kind = gr.Radio(
                    list(KINDS), value=KINDS[0], label="Images", elem_id="kind", scale=3, min_width=280
                )
                self.place = gr.Number(number, precision=0, minimum=1, label="Image", elem_id="place", min_width=100)
                self.turn = {}
                for step, text in ((-1, "Previous"), (1, "Next")):
                    self.turn[step] = gr.Button(text, elem_id=text.lower(), min_width=100)
            self.of_conditions = gr.Markdown(place, elem_id="which")
            self.conditions = gr.Gallery(conditions, elem_id="conditions", **PICTURES)
            gr.Markdown(MARKS)
            for table in diagnosed.tables if diagnosed else ():
                with gr.Accordion(table.title, open=False):
                    gr.Markdown(table.markdown(), elem_classes="tables")
        gr.Markdown("### An image of your own\nIts object is found and pasted on five other backgrounds.")
        with gr.Row():
            self.object = uploaded("object")
            self.mask = gr.Image(label="The object that was found", height=300, elem_id="mask", type="pil", **OUTPUT)
        self.of_pasted = gr.Markdown(elem_id="changed")
        self.pasted = gr.Gallery(elem_id="pasted", **PICTURES)
        gr.Markdown("✓ as on its own background · ● a class of the background · ✗ another")

    def add_reports(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            with gr.Accordion(folder.resolve().name, open=len(folders) == 1):
                gr.Markdown((folder / TABLES_FILE).read_text(encoding="utf-8"), elem_classes="tables")
                for plot in (*folder.glob(FIGURE_FILE), *sorted(folder.glob("plots/*/*.png"))):
                    gr.Image(plot, show_label=False, alt_text=plot.stem.replace("_", " "), format="png", **OUTPUT)

    def add_events(self) -> None:
        answers, chosen = self.handlers, [self.image, self.shown]
        queue = {"concurrency_id": "models", "concurrency_limit": 1}  # one request at a time
        private = queue | {"api_visibility": "private"}
        gr.on(
            [self.image.change, self.target.input, self.method.input],
            answers.explain,
            [self.image, self.target, self.method, self.shown],
            [*self.labels, self.maps, self.difference, self.measures],
            api_name="explain",
            show_progress_on=[self.maps if answers.map_name else self.labels[0]],
            trigger_mode="always_last",
            **queue,
        )
        gr.on(
            [self.set_name.change, self.filter.input, self.number.input],
            answers.look,
            [self.set_name, self.filter, self.number],
            [self.images, self.indices, self.summary, self.number],
            api_name="gallery",
            show_progress_on=[self.images],
            **queue,
        )
        self.examples.select(answers.choose_sample, None, chosen, **private)
        image = [self.set_name, self.indices]
        self.images.select(answers.choose_image, image, [*chosen, self.target, self.tabs], **private)
        which = [self.kind, self.place]
        conditions = [self.verdict, self.conditions, self.of_conditions, self.place]
        self.place.input(answers.conditions, which, conditions, api_name="conditions", **queue)
        self.kind.input(partial(answers.conditions, number=1), [self.kind], conditions, **private)
        for step, button in self.turn.items():
            button.click(partial(answers.conditions, step=step), which, conditions, **private)
        self.object.change(
            answers.on_backgrounds,
            [self.object],
            [self.mask, self.pasted, self.of_pasted],
            api_name="backgrounds",
            show_progress_on=[self.pasted],
            **queue,
        )


def uploaded(name: str) -> gr.Image:
    """Image that a visitor gives, whose value is the path of the file."""
    image = gr.Image(
        label="Image: drop, paste or choose",
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        buttons=[],
        height=300,
        elem_id=name,
    )
    # Gradio would convert the file, lose its colour depth, and raise errors that name no remedy.
    image.preprocess = lambda payload: payload and payload.path
    return image
