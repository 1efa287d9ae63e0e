"""Records of figures and of pictures in pages, with the sizes, places, styles and legends that records of commands leave out."""

import base64
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.container import BarContainer
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from experiments.paper.paper_plots import class_group_figure, size_figure
from experiments.sweeps.gain_and_price import price_figure, prices
from experiments.sweeps.results import Results
from robust_vit_hf.data.background_edits import CONDITIONS
from robust_vit_hf.diagnosis.example_strip import Composed, strip_figure, taken_gallery
from robust_vit_hf.evaluation.examples import EXAMPLES_FILE, Example, before_after_figure, galleries, save_examples
from robust_vit_hf.results.plots import accuracy_figure, class_figure, curve_figure, interpolation_figure

from .experiment import result_rows, runs_of
from .golden import Recorder, levels


def details(figure: Figure) -> dict:
    """Values of a figure by part."""
    parts, axes = [figure, *figure.findobj(SubFigure)], []
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    for axis in figure.axes:
        kept = {"limits": [*axis.get_xlim(), *axis.get_ylim()], "title": axis.get_title()}
        kept["lines"] = [
            [label(one), one.get_color(), one.get_linestyle(), one.get_marker(), *np.ravel(one.get_data())]
            for one in axis.lines
        ]
        bars = [one for one in axis.containers if isinstance(one, BarContainer)]
        kept["bars"] = [[label(one), *one[0].get_facecolor()] for one in bars]
        kept["between"] = [np.ravel(one.get_segments()) for one in axis.collections]
        kept["texts"] = [[one.get_text(), one.get_color(), *one.get_position()] for one in axis.texts]
        kept["places"] = [[*one.get_extent()] for one in axis.images]
        kept["pictures"] = [levels(one.get_array()) for one in axis.images]
        axes.append(kept)
    shown = {"size": figure.get_size_inches(), "titles": [text.get_text() for part in parts for text in part.texts]}
    return shown | {"legends": [[text.get_text() for text in one.get_texts()] for one in legends], "axes": axes}


def label(artist: Artist | BarContainer) -> str:
    """Empty instead of a name that matplotlib gave."""
    return artist.get_label() if not artist.get_label().startswith("_") else ""


def picture(number: int) -> Image.Image:
    """An oblong picture of a level and a gradient of its own."""
    return Image.linear_gradient("L").resize((24, 16)).point(lambda level: 9 * number + level // 8).convert("RGB")


def draw_figures(record: Recorder) -> None:
    """All figures of results and examples, of values that were never measured."""
    rows = [{"set": name, "top1_before": 0.5, "top1_after": after} for name, after in {"a_$1": 0.9, "b": 0.4}.items()]
    rows = [row | {"top1_control": 0.25, "change_low": -0.2, "change_high": 0.45} for row in rows]
    runs, named = runs_of(result_rows()), {"robustvit": "Ours $", "bce": "cross-entropy"}
    half = [replace(run, name=f"{run.name}, half", interpolation_weight=0.5) for run in runs]
    chosen = [run for run in runs if run.model == "ViT-B" and run.learning_rate == 1e-6]
    mixed = [run for run in half if run.model == "ViT-B" and run.method == "robustvit" and run.learning_rate == 1e-5]
    found = prices([*runs, *half], [*chosen, *mixed], "imagenet-a", "imagenet-1k")
    more = [replace(run, name=f"{run.name}, more", method="more-samples", train_images=24) for run in chosen[:2]]
    tops = {0.0: (0.9, 0.2, 0.3), 0.5: (0.8, 0.4, 0.5), 1.0: (0.6, 0.4, 0.7)}
    weights = {
        weight: {"mean_in_distribution": first, "mean_shifted": (second + third) / 2}
        for weight, (first, second, third) in tops.items()
    }
    curve = {"value": [0.0, 20.0], "before": [0.5, 0.25], "after": [0.75, 0.5]}
    changes = {label: (label - 60) / 100 for label in range(121)}
    figures = {
        "accuracy": accuracy_figure(rows),
        "few classes": class_figure({3: -0.5, 1: 0.0, 2: 0.25}, {3: "a, b", 2: "$"}, "a set"),
        "many classes": class_figure(changes, {}, "a set"),
        "curves": curve_figure({"angle": curve, "area": curve, "x": curve}, "si-score"),
        "price": price_figure(found, named, "INet-A", "INet val"),
        "weights": interpolation_figure({"in_distribution": ["a"], "shifted": ["b", "c"], "weights": weights}),
        "figure 4": class_group_figure(Results(runs)),
        "figure 7": size_figure(Results([*chosen[:2], *more])),
    }
    sides, other = ("before", "after"), {"before": "y", "after": "x"}
    maps = {pair: picture(10 + place) for place, pair in enumerate(product(sides, ("predicted", "true")))}
    example = Example("a", 1, "x", picture(1), other, background={"before": 0.5, "after": 0.125}, maps=maps)
    examples = [example, replace(example, row=2, image=picture(2), background={}, maps={})]
    one_side = replace(
        example, predicted={"before": "y"}, confidence={"before": 0.25}, maps={("before", "predicted"): picture(9)}
    )
    figures["both"] = before_after_figure([{"Corrected": examples}, {"Broken": examples[:1], "Other": examples * 2}])
    figures["predicted"] = before_after_figure([{"One side": [one_side]}], ("predicted",))
    figures["without maps"] = before_after_figure([{"Corrected": examples[1:]}])
    pictures = {name: picture(place) for place, name in enumerate(CONDITIONS)}
    of_sides = (dict.fromkeys(CONDITIONS, "cow"), dict.fromkeys(CONDITIONS, "boat") | {"mixed_same": None})
    composed = [Composed("cow", "boat", pictures, {"before": of_sides[0], "after": after}) for after in of_sides]
    figures["strip"] = strip_figure(composed)
    for name, figure in figures.items():
        record.add(name, details(figure))
    save_examples({"corrected": examples, "broken": examples[:1]}, Path(EXAMPLES_FILE))
    for gallery in (*galleries(Path()), taken_gallery(composed[1:])):
        for caption, pictures in gallery.examples:
            of_caption = {one.caption: [one.alt, one.place, decoded(one.source)] for one in pictures}
            record.add(f"{gallery.title}, {caption}", of_caption)


def decoded(source: str) -> dict:
    """A picture in a page, by its kind."""
    kind, _, content = source.partition(";base64,")
    return {kind: {"bytes": base64.b64decode(content)}}
