"""Choice of each method's learning rate, using only validation images."""

from collections import defaultdict

from ..results.file import ResultsFile
from ..results.table import Run
from ..results.text_table import Table, percent


TOLERANCE = 1e-9  # for rounding: 0.98 - 0.96 > 0.02 in floats


def choose_learning_rates(results: ResultsFile) -> tuple[list[Run], Table]:
    """Choose the runs of each model and method by the paper's rule: the highest learning rate at which validation
    top-1, on classes that are not trained on, drops by at most a bound, averaged over seeds. If there is none, the
    rate with the smallest drop is chosen and marked in the table. A single rate is always chosen.

    Returns:
        The chosen runs, and a table of all learning rates.

    Raises:
        ValueError: the learning rates of a method have different seeds or epochs, hence different budgets, or were not
            measured on labelled validation images.

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
