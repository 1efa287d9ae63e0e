"""Candidates: settings to train, and the table of what they are worth on the selection images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ..results import choice
from ..results.choice import loses_too_much, may_be_lost, rank
from ..results.tables import Table
from .composites import Composites
from .fit_layers import LayerSettings


# On photographs, swap with the original's output gained most on backgrounds that nothing was trained on; whether the relevance loss
# adds to it depends on the images. So rate and start are chosen by swap alone, and both are trained at these.
VARIANTS: dict[str, dict[str, Any]] = {
    "swap": {"method": "swap", "confidence_weight": 0.2},  # as beside the relevance loss
    "swap and relevance": {"confidence_target": "original", "background_swap": 0.75, "relevance_distance": "bce"},
}
# Shares of the finetuned weights that are measured, of the short trainings and of those of all steps.
FIRST_MIXTURES, MIXTURES = (0.5, 1.0), (0.25, 0.5, 0.75, 1.0)
FINALISTS, FIRST_SHARE = 2, 3  # trainings of all steps; all others are shorter by this factor


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training. `variant` is a name in [`VARIANTS`], or a method."""

    variant: str
    learning_rate: float
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    start: str = "original"  # the model that is finetuned: that, or the one with the new `layer`

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.variant.replace(' ', '-')}-from-{self.start}-{self.learning_rate}-{self.steps}"

    def __str__(self) -> str:
        start = "" if self.start == "original" else f" from the new {self.start}"
        return f"{self.variant}{start}, learning rate {self.learning_rate}, {self.steps} steps"


@dataclass(frozen=True, eq=False)
class Mixture(choice.Candidate):
    """A share (`alpha`) of a new layer's weights, or of a trained model's, and the rest of those before, on the selection images."""

    settings: LayerSettings | TrainingSettings | None = None  # `None` for the original model
    alpha: float = 0.0

    @classmethod
    def of(cls, logits: Composites, settings: LayerSettings | None = None, alpha: float = 0.0) -> Self:
        return cls(**logits.right(), settings=settings, alpha=alpha)

    @property
    def strength(self) -> tuple[float, ...]:
        if isinstance(self.settings, TrainingSettings):
            return (1.0, self.settings.learning_rate, self.alpha)
        return (0.0, 0.0, self.alpha)


def first_trainings(
    method: str | None, learning_rates: Sequence[float], max_steps: int, starts: Sequence[str] = ("original",)
) -> list[TrainingSettings]:
    """The short trainings: swap, or a named method, at each rate, from each start."""
    name, options = ("swap", VARIANTS["swap"]) if method is None else (method, {"method": method})
    steps = max(1, max_steps // FIRST_SHARE)
    return [TrainingSettings(name, rate, steps, options, start) for start in starts for rate in learning_rates]


def finalists(
    mixtures: Sequence[Mixture], before: Mixture, max_loss: float, max_steps: int, with_relevance: bool = True
) -> list[TrainingSettings]:
    """The trainings of all steps, none that was done: the settings that the rule puts first, and, of swap `with_relevance`, these with
    the relevance loss; else those that it puts second."""
    order = [one.settings for one in rank(mixtures, before, max_loss)]
    ranked = list({one.name: one for one in order if isinstance(one, TrainingSettings)}.values())
    last = [replace(one, steps=max_steps) for one in ranked[:FINALISTS]]
    if last and with_relevance and last[0].variant == "swap":
        with_map = "swap and relevance"
        last[1:] = [replace(last[0], variant=with_map, options=VARIANTS[with_map])]
    return [one for one in last if one not in ranked]


def choose_cheapest(mixtures: Sequence[Mixture], before: Mixture, max_loss: float) -> Mixture:
    """The mixture that the rule chooses, see [`choice.choose`]; a training only if its gain over the best new layer is resolved."""
    cheap = choice.choose(
        [one for one in mixtures if not isinstance(one.settings, TrainingSettings)], before, max_loss
    )
    chosen = choice.choose(mixtures, before, max_loss)
    gain, _ = chosen.changes(cheap)
    keeps_layer = isinstance(cheap.settings, LayerSettings) and not loses_too_much(cheap, before, max_loss)
    return cheap if keeps_layer and gain.low <= 0 else chosen


def candidates_table(mixtures: Sequence[Mixture], before: Mixture, chosen: Mixture, max_loss: float) -> Table:
    """Table of all candidates in the order of the rule."""
    rows = []
    for one in rank(mixtures, before, max_loss):
        marked = "chosen" if one is chosen else "loses too much" if loses_too_much(one, before, max_loss) else ""
        gain, loss = one.changes(before)
        settings = ["original", "–"] if one.settings is None else [str(one.settings), f"{one.alpha:g}"]
        rows.append([*settings, f"{100 * one.top1():.1f}", str(gain), str(loss), marked])
    head = ["candidate", "share of its weights", "`mixed_rand`", "change", "change of `original`", ""]
    bound, count = may_be_lost(before, max_loss)
    title = f"Candidates on {count} selection images, of which a candidate may lose {bound}; top-1 in per cent [95 % interval]"
    return Table(title, head, rows)
