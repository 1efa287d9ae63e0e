"""The learning rate of each method, chosen on validation images alone."""

from collections import defaultdict

from ..results.file import ResultsFile
from ..results.table import Run
from ..results.text_table import Table, percent


TOLERANCE = 1e-9  # falls are differences of floats: 0.98 - 0.96 is more than 0.02


def choose_learning_rates(results: ResultsFile) -> tuple[list[Run], Table]:
    """The runs of each model and method at the learning rate of the paper's rule: the highest at which top-1 on the validation
    images, which are of classes that are not trained on, falls by no more than a bound, as a mean over the seeds. A method
    without such a rate has the one at which it falls least, and the table says so. A single rate is taken as it is.

    Returns:
        The runs, and a table of all rates.

    Raises:
        ValueError: the rates of a method differ in their seeds or epochs, so that they were not given the same budget, or
            were not measured on validation images with labels.

    Source: https://huggingface.co/papers/2206.01161, section 4
    """
    groups: dict[tuple[str, str], dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in results.runs:
        groups[run.model, run.method][run.learning_rate].append(run)
    chosen, rows = [], []
    for (model, method), rates in groups.items():
        rates = dict(sorted(rates.items()))
        budgets = {frozenset((run.seed, run.epochs) for run in runs) for runs in rates.values()}
        falls = {
            rate: sum(run.validation[0] - run.validation[1] for run in runs) / len(runs)
            for rate, runs in rates.items()
            if all(run.validation for run in runs)
        }
        if len(rates) > 1 and (len(budgets) > 1 or len(falls) < len(rates)):
            what = "seeds or epochs" if len(budgets) > 1 else "validation images, some of which have no labels"
            raise ValueError(
                f"{model}, {method}: its learning rates {', '.join(f'{rate:g}' for rate in rates)} differ in their {what}. "
                "Complete the sweep, or leave rates out, before one is chosen."
            )
        within = [rate for rate, fall in falls.items() if fall <= results.validation_bound + TOLERANCE]
        best = max(within) if within else min(falls, key=falls.get) if falls else next(iter(rates))
        chosen += rates[best]
        for rate, runs in rates.items():
            verdict = "" if rate != best else "chosen" if rate in within or rate not in falls else "beyond the bound"
            fall = percent(falls.get(rate))
            rows.append([model, method, f"{rate:g}", str(len(runs)), fall, verdict])
    title = (
        "Learning rates: fall of top-1 on the validation images of unseen classes, in points, which may be "
        f"{100 * results.validation_bound:g}"
    )
    return chosen, Table(title, ["model", "method", "learning rate", "seeds", "fall", ""], rows)
