"""The paper's Figures 1, 2, 3, 6 and 15 for any pair of models and any set.

Source: https://huggingface.co/papers/2206.01161
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from robust_vit_hf.data.classes import class_index
from robust_vit_hf.evaluation.accuracy import saved_accuracy
from robust_vit_hf.evaluation.examples import KINDS, Example, before_after_figure, draw, explain, rows_of_kind
from robust_vit_hf.evaluation.session import Session, open_session
from robust_vit_hf.evaluation.sets import load_sets
from robust_vit_hf.results.plots import save_figure
from robust_vit_hf.results.run_results import SetResult
from robust_vit_hf.results.tables import class_changes
from robust_vit_hf.utils.files import RESULTS_FILE, read_json, write_atomically

from .options import FigureOptions
from .set_titles import title_of


CAPTIONS_FILE = "captions.md"
NUM_CANDIDATES = 60  # images compared for Figure 1
CONFIDENCE = 0.9  # minimum for Figure 1, as in the paper
GROUPS_OF_A_ROW = 3  # in Figures 3 and 6


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure of the paper, the rule by which its images were chosen, and the examples shown."""

    figure: Figure
    rule: str
    examples: list[Example]


def make_figures(options: FigureOptions) -> str:
    """Write `figure_<number>` as PNG and PDF and `captions.md` from the predictions saved by `robust-vit evaluate`.
    Deterministic for the same predictions, seed and version of matplotlib."""
    folder = options.output_dir
    evaluated = (read_json(options.evaluation / RESULTS_FILE) or {}).get("protocols")
    protocol = options.protocol or next(iter(evaluated or ()), None)
    with open_session(options.model, options.compare, protocol) as session:
        session.check_maps()
        session = session.with_sets(load_sets(options, session.protocol, options.images_per_set))
        results = saved_accuracy(session, options.evaluation)
        names = session.label_names
        kept = None
        if options.classes is not None:
            kept = {class_index(name, [names[label] for label in range(len(names))]) for name in options.classes}
        maker = _FigureMaker(options, session, results, kept)
        figures = {1: maker.figure_1, 2: maker.figure_2, 3: maker.figure_3, 15: maker.figure_15}
        figures[6] = partial(maker.figure_3, start=options.num_examples)
        made = {number: figures[number]() for number in sorted(options.figures)}
        before, after = (session.sides[name].name for name in ("before", "after"))
        shown = f"Before: `{before}`; after: `{after}`. Protocol `{session.protocol}`."
        if kept is not None:
            shown += f" Classes: {', '.join(names[label] for label in sorted(kept))}."
        for number, figure in made.items():
            if figure is not None:
                save_figure(figure.figure, folder, f"figure_{number}")
        text = "\n".join(_caption(number, figure, shown) for number, figure in made.items())
        write_atomically(folder / CAPTIONS_FILE, text)
    return f"\n{text}\nFigures and {CAPTIONS_FILE}: {folder}"


def _caption(number: int, figure: CaptionedFigure | None, shown: str) -> str:
    if figure is None:
        return f"**Figure {number}** has no image: no prediction is of its kind, or no set has masks.\n"
    places: dict[str, list[str]] = {}
    for example in figure.examples:
        places.setdefault(example.set_name, []).append(str(example.row))
    listed = "; ".join(f"{name}, rows {', '.join(rows)}" for name, rows in places.items())
    return f"**Figure {number}** (`figure_{number}`). {shown} Rule: {figure.rule} Images: {listed}.\n"


@dataclass(frozen=True)
class _FigureMaker:
    """The paper's figures of a pair of models; `None` where no image is of their kind, or no set has masks."""

    options: FigureOptions
    session: Session
    results: Mapping[str, SetResult]
    kept: set[int] | None  # classes to show; `None` for all

    def figure_1(self) -> CaptionedFigure | None:
        """Confident predictions of the original model with relevance on the background, or on little of the object."""
        count, sets = self.options.num_examples, self.session.sets
        masked = {name: rows for name, rows in self.rows(None).items() if "mask" in sets[name].dataset.column_names}
        drawn = self.explain(draw(masked, NUM_CANDIDATES, self.options.seed), ["before"])
        candidates = [example for example in drawn if example.background]  # not those with an empty mask
        confident = [example for example in candidates if example.confidence["before"] >= CONFIDENCE]
        on_background = sorted(confident, key=lambda example: -example.background["before"])[:count]
        rest = [example for example in confident if example not in on_background]
        sparse = sorted(rest, key=lambda example: example.coverage["before"])[:count]
        if not confident:
            return None
        rule = (
            f"of {len(candidates)} images that were drawn at random (seed {self.options.seed}), the "
            f"{len(confident)} that the "
            f"model before the finetuning predicts with a confidence of at least {CONFIDENCE:.0%}; first row, "
            "those with the "
            "largest share of the relevance outside the mask; second row, of the others those with the lowest "
            "mean relevance "
            "within the mask. Maps explain the predicted class."
        )
        rows = {"Relevance on the background": on_background, "Sparse relevance on the object": sparse}
        figure = before_after_figure([{title: examples} for title, examples in rows.items()], ("predicted",))
        return CaptionedFigure(figure, rule, [*on_background, *sparse])

    def figure_2(self) -> CaptionedFigure | None:
        """Images whose prediction stays correct, is corrected or is broken."""
        groups = {}
        for kind in ("unchanged", "corrected", "broken"):
            found = self.rows(kind)
            images = draw(found, self.options.num_examples, self.options.seed)
            groups[f"{kind.capitalize()} ({sum(map(len, found.values()))} images)"] = self.explain(images)
        rules = "; ".join(f"{kind}: {rule}" for kind, rule in KINDS.items())
        drawn = f"Drawn at random from the sets in turn, seed {self.options.seed}."
        return self.before_after([groups], f"{rules}. {drawn}")

    def figure_3(self, start: int = 0) -> CaptionedFigure | None:
        """Figures 3 and 6: corrected images of each set, from position `start` on."""
        groups = {}
        for name, rows in self.rows("corrected").items():
            drawn = draw({name: rows}, start + self.options.num_examples, self.options.seed)[start:]
            groups[f"{title_of(name)} ({len(rows)} images)"] = self.explain(drawn)
        filled = [(title, examples) for title, examples in groups.items() if examples]
        further = f", after the first {start} of the same order, which Figure 3 shows" if start else ""
        rule = f"corrected: {KINDS['corrected']}. Drawn at random from each set, seed {self.options.seed}{further}."
        starts = range(0, len(filled), GROUPS_OF_A_ROW)
        return self.before_after([dict(filled[first : first + GROUPS_OF_A_ROW]) for first in starts], rule)

    def figure_15(self) -> CaptionedFigure | None:
        """The most harmed classes of each set."""
        harmed = []
        for name, of_set in self.rows("broken").items():
            changes = class_changes([self.results[name]])
            broken: dict[int, list[int]] = {}  # publishable rows by class
            for row in of_set:
                broken.setdefault(int(self.results[name].classes[row]), []).append(row)
            groups = {}
            for label in [label for label in changes if changes[label] < 0 and label in broken][:2]:
                title = f"{title_of(name)}: {self.session.label_names[label]} ({100 * changes[label]:+.0f} points)"
                groups[title] = self.explain([(name, row) for row in broken[label][:3]])
            harmed.append(groups)
        rule = (
            "the two classes of each set whose top-1 falls most (of equal falls, the lower label) and that have "
            "an image to show, "
            f"and of each the first three, in the order of the set, of which {KINDS['broken']}. Nothing is drawn."
        )
        return self.before_after(harmed, rule)

    def rows(self, kind: str | None) -> dict[str, list[int]]:
        return rows_of_kind(kind, self.results, self.session.sets, self.kept)

    def explain(self, images: list[tuple[str, int]], sides: Sequence[str] = ("before", "after")) -> list[Example]:
        return explain(images, self.session, self.results, sides)

    def before_after(self, rows: Sequence[Mapping[str, list[Example]]], rule: str) -> CaptionedFigure | None:
        """Figure of groups of examples with their selection rule; `None` if all groups are empty."""
        examples = [example for row in rows for group in row.values() for example in group]
        target = self.options.target
        if not examples:
            return None
        figure = before_after_figure(rows, (target,))
        return CaptionedFigure(figure, f"{rule} Maps explain the {target} class.", examples)
