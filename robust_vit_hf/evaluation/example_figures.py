"""The paper's figures of examples for any pair of models and any set: 1, 2, 3, 6 and 15.

Source: https://huggingface.co/papers/2206.01161
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure

from ..data.benchmarks import IMAGES_PER_SET
from ..class_names.label_mapping import class_index
from ..models.digest import weights_digest
from ..models.preprocessing import load_processor
from ..utils.files import read_json, write_atomically
from ..utils.publishable import public_name
from .cache import FINGERPRINT_FILE, check_fingerprint, fingerprint_of
from .compare import Comparison
from .evaluate_sets import SetResult
from .examples import KINDS, Example, draw, explain, may_be_shown, rows_of_kind
from .figures import before_after_figure, issue_figure
from .plots import save_figure
from .protocols import Protocol
from .robustness import label_names_of, load_models, load_sets
from .set_names import PAPER_SETS


CAPTIONS_FILE = "captions.md"
NUM_CANDIDATES = 60  # images whose maps Figure 1 compares
CONFIDENCE = 0.9  # of the predictions of Figure 1, as in the paper
GROUPS_OF_A_ROW = 3  # in Figures 3 and 6


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure of the paper.

    Args:
        rule: how its images were chosen.
        examples: what it shows.
    """

    figure: Figure
    rule: str
    examples: list[Example]


def make_figures(
    evaluation: Path,
    model: str,
    compare: str,
    sets: Sequence[tuple[str, str | None]],
    output_dir: Path,
    accelerator: Accelerator,
    *,
    dataset: str | None = None,
    split: str = "validation",
    protocol: Protocol = "paper",
    images_per_set: int = IMAGES_PER_SET,
    figures: Collection[int] = (1, 2, 3, 6, 15),
    target: str = "predicted",
    classes: Sequence[str] | None = None,
    num_examples: int = 4,
    seed: int = 0,
) -> str:
    """Write `figure_<number>`, each as PNG and PDF, and their captions, `captions.md`, from the predictions that
    [`evaluate_robustness`] saved. The same predictions and seed give the same files, under the same version of matplotlib.

    Args:
        evaluation: output folder of the evaluation.
        model, compare, sets, dataset, split, images_per_set: those of the evaluation.
        protocol: of the predictions and the images.
        figures: numbers, of 1, 2, 3, 6 and 15. Figure 1 is of images with masks.
        target: class that the maps of Figures 2, 3, 6 and 15 explain, `predicted` or `true`.
        classes: names or labels, see [`class_index`], of the classes to which images are restricted; by default all.
        num_examples: images of a group.
        seed: of the draw.

    Returns:
        The captions, as Markdown.

    Raises:
        ValueError: there are no predictions of a set, or they are of other models or images; an unknown class; no figure has an
            image.
        OSError: there is no such model or set.
    """
    names = {"before": model, "after": compare}
    models = load_models(names, accelerator)
    loaded = load_sets(sets, dataset, split, protocol, images_per_set, models["before"])
    processors = {side: load_processor(name, protocol, models[side]) for side, name in names.items()}
    results = {side: {} for side in models}
    for side, loaded_model in models.items():
        digest = weights_digest(loaded_model)
        for name, rows in loaded.items():
            folder = evaluation / protocol / name / side
            known, result = read_json(folder / FINGERPRINT_FILE), SetResult.load(folder)
            if known is None or result is None:
                raise ValueError(
                    f"`{evaluation}` has no predictions of `{name}` {side} the finetuning under protocol `{protocol}`: run "
                    f"`robust-vit evaluate` with --compare, --protocols {protocol} and --output_dir {evaluation} first."
                )
            identity = {"weights": digest, "bf16": known.get("bf16")}
            check_fingerprint(folder, fingerprint_of(identity, rows, processors[side]))
            results[side][name] = result
    label_names = label_names_of(models["before"], loaded)
    ordered = [label_names[label] for label in range(len(label_names))]
    kept = None if classes is None else {class_index(name, ordered) for name in classes}
    found = {kind: rows_of_kind(kind, results["before"], results["after"], loaded, kept) for kind in KINDS}

    def explained(images: Sequence[tuple[str, int]], sides: Collection[str] = ("before", "after")) -> list[Example]:
        return explain(images, {side: models[side] for side in sides}, processors, loaded, results, label_names)

    made = {}
    if 1 in figures:
        masked = {}
        for name, result in results["before"].items():
            if "mask" in loaded[name].dataset.column_names and result.accepted is not None:
                chosen = result.usable & may_be_shown(loaded[name].dataset)
                masked[name] = np.flatnonzero(chosen & (kept is None or np.isin(result.classes, list(kept)))).tolist()
        candidates = explained(draw(masked, NUM_CANDIDATES, seed), ("before",))
        made[1] = _issues(candidates, num_examples, seed)
    if 2 in figures:
        drawn = {kind: draw(found[kind], num_examples, seed) for kind in ("unchanged", "corrected", "broken")}
        groups = {
            f"{kind.capitalize()} ({sum(map(len, found[kind].values()))} images)": explained(images)
            for kind, images in drawn.items()
        }
        rules = "; ".join(f"{kind}: {rule}" for kind, rule in KINDS.items())
        made[2] = _figure([groups], target, f"{rules}. Drawn at random from the sets in turn, seed {seed}.")
    for number, start in ((3, 0), (6, num_examples)):
        if number in figures:
            groups = {}
            for name, rows in found["corrected"].items():
                drawn = draw({name: rows}, start + num_examples, seed)[start:]
                groups[f"{PAPER_SETS.get(name, name)} ({len(rows)} images)"] = explained(drawn)
            filled = [title for title, examples in groups.items() if examples]
            rows = [
                {title: groups[title] for title in filled[first : first + GROUPS_OF_A_ROW]}
                for first in range(0, len(filled), GROUPS_OF_A_ROW)
            ]
            further = f", after the first {num_examples} of the same order, which Figure 3 shows" if start else ""
            rule = f"corrected: {KINDS['corrected']}. Drawn at random from each set, seed {seed}{further}."
            made[number] = _figure(rows, target, rule)
    if 15 in figures:
        comparison = Comparison(results["before"], results["after"])
        harmed = []
        for name, of_set in found["broken"].items():
            changes = comparison.class_changes(name)
            broken: dict[int, list[int]] = {}  # rows that may be shown, by class
            for row in of_set:
                broken.setdefault(int(results["before"][name].classes[row]), []).append(row)
            groups = {}
            for label in [label for label in changes if changes[label] < 0 and label in broken][:2]:
                images = [(name, row) for row in broken[label][:3]]
                title = f"{PAPER_SETS.get(name, name)}: {label_names[label]} ({100 * changes[label]:+.0f} points)"
                groups[title] = explained(images)
            harmed.append(groups)
        rule = (
            "the two classes of each set whose top-1 falls most (of equal falls, the lower label) and that have an image to show, "
            f"and of each the first three, in the order of the set, of which {KINDS['broken']}. Nothing is drawn."
        )
        made[15] = _figure(harmed, target, rule)

    complete = {number: figure for number, figure in made.items() if figure is not None}
    if not complete:
        raise ValueError(
            f"No image fits figure{'s' * (len(made) > 1)} {', '.join(map(str, made))}: no prediction changed, or no set has "
            "masks (Figure 1). Give other --sets, --classes or --figures."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    shown = f"Before: `{public_name(model)}`; after: `{public_name(compare)}`. Protocol `{protocol}`."
    if kept is not None:
        shown += f" Classes: {', '.join(label_names[label] for label in sorted(kept))}."
    captions = []
    for number, figure in made.items():
        if figure is None:
            captions.append(f"**Figure {number}** has no image: no prediction is of its kind, or no set has masks.\n")
            continue
        save_figure(figure.figure, output_dir, f"figure_{number}")
        places: dict[str, list[str]] = {}
        for example in figure.examples:
            places.setdefault(example.set_name, []).append(str(example.row))
        listed = "; ".join(f"{name}, rows {', '.join(rows)}" for name, rows in places.items())
        captions.append(f"**Figure {number}** (`figure_{number}`). {shown} Rule: {figure.rule} Images: {listed}.\n")
    text = "\n".join(captions)
    write_atomically(output_dir / CAPTIONS_FILE, text)
    return text


def _figure(rows: Sequence[Mapping[str, list[Example]]], target: str, rule: str) -> CaptionedFigure | None:
    """Figure of groups of examples, with the rule of their choice; `None` without an example."""
    examples = [example for row in rows for group in row.values() for example in group]
    if not examples:
        return None
    return CaptionedFigure(before_after_figure(rows, (target,)), f"{rule} Maps explain the {target} class.", examples)


def _issues(candidates: list[Example], count: int, seed: int) -> CaptionedFigure | None:
    """Figure 1: confident predictions of the original model, with relevance on the background, or on little of the object."""
    confident = [example for example in candidates if example.confidence["before"] >= CONFIDENCE]
    on_background = sorted(confident, key=lambda example: -example.background["before"])[:count]
    rest = [example for example in confident if example not in on_background]
    sparse = sorted(rest, key=lambda example: example.coverage["before"])[:count]
    if not confident:
        return None
    rule = (
        f"of {len(candidates)} images that were drawn at random (seed {seed}), the {len(confident)} that the model before the "
        f"finetuning predicts with a confidence of at least {CONFIDENCE:.0%}; first row, those with the largest share of the "
        "relevance outside the mask; second row, of the others those with the lowest mean relevance within the mask. Maps explain "
        "the predicted class."
    )
    rows = {"Relevance on the background": on_background, "Sparse relevance on the object": sparse}
    return CaptionedFigure(issue_figure(rows), rule, [*on_background, *sparse])
