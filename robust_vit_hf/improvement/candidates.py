"""Candidates: settings to train, and the table of what they are worth on the selection images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..results import choice
from ..results.choice import loses_too_much, may_be_lost, rank
from ..results.markdown_latex import Table


# Candidates beside each other, by name, unless a method is named. On photographs, swap with the original's output gained most
# on backgrounds that nothing was trained on; whether the relevance loss adds to it depends on the images.
SWAP = {"confidence_target": "original", "background_swap": 0.75}
VARIANTS: dict[str, dict[str, Any]] = {
    "swap": {**SWAP, "relevance_weight": 0.0},
    "swap and relevance": {**SWAP, "relevance_distance": "bce"},
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

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.variant.replace(' ', '-')}-{self.learning_rate:g}-{self.steps}"

    def __str__(self) -> str:
        return f"{self.variant}, learning rate {self.learning_rate:g}, {self.steps} steps"


@dataclass(frozen=True, eq=False)
class Mixture(choice.Candidate):
    """A mixture of the original's weights with a share (`alpha`) of a trained model's, on the selection images."""

    training: TrainingSettings | None  # `None` for the original model
    alpha: float

    @property
    def strength(self) -> tuple[float, ...]:
        return (self.training.learning_rate if self.training else 0.0, self.alpha)


def first_trainings(
    method: str | None, learning_rates: Sequence[float], max_steps: int, has_map: bool = True
) -> list[TrainingSettings]:
    """The short trainings: each variant at each rate; of a model without a relevance map, swap alone."""
    variants = {name: options for name, options in VARIANTS.items() if has_map or options.get("relevance_weight") == 0}
    variants = variants if method is None else {method: {"method": method}}
    steps = max(1, max_steps // FIRST_SHARE)
    return [
        TrainingSettings(name, rate, steps, options) for name, options in variants.items() for rate in learning_rates
    ]


def finalists(mixtures: Sequence[Mixture], before: Mixture, max_loss: float, max_steps: int) -> list[TrainingSettings]:
    """The trainings of all steps: the settings that the rule puts first, of each variant if there are several."""
    ranked = {one.training.name: one.training for one in rank(mixtures, before, max_loss) if one.training}
    first_of_variant = {one.variant: one for one in reversed(ranked.values())}
    firsts = [one for one in ranked.values() if one is first_of_variant[one.variant]]
    others = [one for one in ranked.values() if one not in firsts]
    return [replace(one, steps=max_steps) for one in (firsts + others)[:FINALISTS]]


def candidates_table(mixtures: Sequence[Mixture], before: Mixture, chosen: Mixture, max_loss: float) -> Table:
    """Table of all candidates in the order of the rule."""
    rows = []
    for one in rank(mixtures, before, max_loss):
        settings, training = ["original", "–", "–", "–"], one.training
        if training is not None:
            settings = [training.variant, f"{training.learning_rate:g}", str(training.steps), f"{one.alpha:g}"]
        marked = "chosen" if one is chosen else "loses too much" if loses_too_much(one, before, max_loss) else ""
        gain, loss = one.changes(before)
        rows.append([*settings, f"{100 * one.top1():.1f}", str(gain), str(loss), marked])
    head = ["candidate", "learning rate", "steps", "share of its weights"]
    head += ["`mixed_rand`", "change", "change of `original`", ""]
    bound, count = may_be_lost(before, max_loss)
    title = f"Candidates on {count} selection images, of which a candidate may lose {bound}; top-1 in per cent [95 % interval]"
    return Table(title, head, rows)
