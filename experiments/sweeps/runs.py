"""A finetuning run in the table of results, with what tells it from other runs."""

from dataclasses import dataclass, field

from robust_vit_hf.results.run_results import SetResult


OURS = "robustvit"  # the method of the paper


@dataclass(frozen=True)
class Run:
    """Results of a run or a pair of models. Runs with equal settings, model and learning rate are repetitions."""

    sets: dict[str, SetResult]
    training_classes: frozenset[int] | None = None
    name: str = ""
    model: str = ""  # name in the paper, or else as given by the user
    method: str = OURS  # in a sweep, the variant and the other crossed options
    seed: str = ""
    settings: str = ""  # all options except model, learning rate and seed, as JSON
    learning_rate: float | None = None
    epochs: float | None = None
    tuned: dict[str, float] = field(default_factory=dict)  # options that were chosen in addition to the learning rate
    seconds: float | None = None
    commit: str | None = None
    original: str | None = None  # digest of the weights of the original model
    validation: tuple[float, float] | None = None  # top-1 on the validation images before and after, as fractions
    composed: dict[str, SetResult] = field(default_factory=dict)  # of validation images: `original`, `mixed_rand`
    train_images: int | None = None  # number of training images; `None` for a stream

    @property
    def labelled(self) -> list[SetResult]:
        return [result for result in self.sets.values() if result.usable.any()]
