"""Published figures of the paper, and top-1 and top-5 of models and methods next to them: its Tables 1, 2, 10 and
11."""

import json
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from robust_vit_hf.metrics.robust_accuracy import TOP
from robust_vit_hf.results.tables import Table

from ..sweeps.results import Results
from ..sweeps.runs import OURS, Run
from ..sweeps.seed_intervals import change
from .set_titles import SYNTHETIC, title_of


BASE_MODELS = ("ViT-B", "AR-B", "DeiT-B")  # which Tables 10 and 11 and Figure 4 average
# Variants of a grid in the order of the tables, with their names in the paper.
METHODS = {
    OURS: "Ours",
    "unsupervised-masks": "Ours, unsupervised masks",
    "gradmask": "GradMask",
    "rrr": "RRR",
    "without-confidence": "w/o classification loss (Eq. 4)",
    "without-background": "w/o background loss (Eq. 1)",
    "without-foreground": "w/o foreground loss (Eq. 2)",
    "ground-truth": "w/ ground-truth",
}
BASELINES = ("gradmask", "rrr")  # published values are always shown
VALIDATION = "unseen classes"  # the validation images of the finetuning
# Published versions of a method where there are several, with what tells them apart.
VERSIONS = {"finetuned": {"finetuned": " (3 seeds)", "finetuned-one-run": " (1 run)"}}
OF_PAPER = "Tables 8 and 9 for three seeds, Tables 1 and 2 for one run and for baselines"
SOURCES = {"paper": OF_PAPER, "native": "timm's results"}


@cache
def published_models(kind: str = "models") -> dict[str, dict]:
    """Published values in per cent by the paper's name of the model (`ViT-B`), protocol, version (such as `original`
    and `finetuned-one-run`), set and score. Pairs are mean and standard deviation. Of the kind `object_focus`, a value
    for each model. `published.json` names the sources."""
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))[kind]


def accuracy_tables(
    results: Results, protocol: str = "paper", methods: Sequence[str] | None = None
) -> dict[str, Table]:
    """Tables 1 and 2, with the published values of a protocol, and average changes with 95 % intervals."""
    methods = results.methods if methods is None else methods
    parts = {
        "table_1": ("Table 1: real images, top-1 and top-5 in per cent", False),
        "table_2": ("Table 2: synthetic images, top-1 and top-5 in per cent, and the change of top-1", True),
    }
    tables = {}
    for name, (title, synthetic) in parts.items():
        if methods and any((of_set in SYNTHETIC) == synthetic for of_set in results.sets):
            sets, shown = _of_kind(results, synthetic), list(dict.fromkeys([*methods, *BASELINES]))
            tables[name] = accuracy_table(results, title, shown, sets, (1, TOP), protocol, with_changes=synthetic)
            if any(", published" in row[1] for row in tables[name].rows):
                tables[name].title += f" (published figures: {SOURCES[protocol]})"
    return tables


def _of_kind(results: Results, synthetic: bool) -> list[str]:
    """Real or synthetic sets, and always the unshifted ones, so that forgetting shows next to the gain."""
    return [name for name in results.sets if (name in SYNTHETIC) == synthetic or name in results.unshifted]


def accuracy_table(
    results: Results,
    title: str,
    methods: Sequence[str],
    sets: Sequence[str],
    ks: Sequence[int],
    protocol: str = "paper",
    with_changes: bool = False,
    ours: str = "finetuned",
) -> Table:
    """Top-k of the original model and of each method, by model, and average changes. `ours` is the version of the
    published values of the paper's method; `with_changes` adds the change of top-1 to each value."""
    rows: list[list[str]] = []
    columns = [(name, tuple(f"top{k}" for k in ks)) for name in sets]
    for model in results.models:
        of_model = [run for run in results.runs if run.model == model and run.method in methods]
        if not of_model:
            continue
        measured = {name: _originals([run for run in of_model if name in run.sets], name) for name in sets}
        cells = [_accuracy(runs, name, ks, "before") if runs else "–" for name, runs in measured.items()]
        of_seed = {run.seed: run for run in of_model if run.validation}
        rows.append([model, "Original", validation_top1(list(of_seed.values()), 0), *cells])
        rows += published_rows([model, "Original, published", "–"], model, protocol, "original", columns)
        for method in methods:
            label = METHODS.get(method, method)
            if runs := finetuned(results.of(method, model)):
                cells = [_cell(results, runs, name, ks, with_changes) for name in sets]
                rows.append([model, label, validation_top1(runs, 1), *cells])
            known = ours if method == OURS else method
            for version, of_version in VERSIONS.get(known, {known: ""}).items():
                lead = [model, f"{label}, published{of_version}", "–"]
                rows += published_rows(lead, model, protocol, version, columns)
    for method, k in product(methods, ks):
        runs = finetuned(results.of(method))
        if runs and {run.model for run in runs} == set(results.models):  # as in the paper, only over all models
            cells = [str(change(runs, [name], k)) if _ranked(results, runs, name, k) else "–" for name in sets]
            validation = validation_change(runs) if k == 1 else "–"
            rows.append([f"Avg. change of top-{k}", METHODS.get(method, method), validation, *cells])
    return with_validation(title, ["model", "method", VALIDATION, *map(title_of, sets)], rows)


def published_rows(
    lead: list[str], model: str | None, protocol: str, version: str, columns: Sequence[tuple[str, tuple[str, ...]]]
) -> list[list[str]]:
    """The row of published values of a model, such as `80.3±0.1 95.4±0.0`, after the cells `lead`: by column, of a set
    and scores; none without values."""
    known, texts = published_models().get(model, {}).get(protocol, {}).get(version, {}), []
    for name, scores in columns:
        values = [known[name][score] for score in scores if score in known.get(name, ())]
        texts.append(" ".join(f"{v[0]:.1f}±{v[1]:.1f}" if isinstance(v, list) else f"{v:.1f}" for v in values))
    return [[*lead, *(text or "–" for text in texts)]] if any(texts) else []


def _originals(runs: Sequence[Run], name: str) -> list[Run]:
    """A run of each seed to show the original model of; one alone if its results are the same for all of them."""
    # Of objects that were cut out, only the best class is known.
    by_rank = sorted(runs, key=lambda run: run.sets[name].sides["before"].num_ranked)
    of_seed = list({run.seed: run for run in by_rank}.values())
    results = {run.sets[name].sides["before"].ranks.tobytes() for run in of_seed}
    return of_seed[:1] if len(results) == 1 else of_seed


def _ranked(results: Results, runs: Sequence[Run], name: str, k: int) -> bool:
    """Whether all runs were measured on a set, and top-k is known."""
    known = [side.num_ranked for run in runs if name in run.sets for side in run.sets[name].sides.values()]
    return bool(results.common(runs, [name])) and min(known) >= k


def finetuned(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if any("after" in result.sides for result in run.sets.values())]


def _cell(results: Results, runs: Sequence[Run], name: str, ks: Sequence[int], with_changes: bool) -> str:
    if not results.common(runs, [name]):
        return "–"
    moved = f" ({100 * change(runs, [name]).mean:+.1f})" if with_changes else ""
    return _accuracy(runs, name, ks, "after") + moved


def _accuracy(runs: Sequence[Run], name: str, ks: Sequence[int], side: str) -> str:
    values = [[run.sets[name].accuracy(side, k) for run in runs] for k in ks]
    return " ".join("–" if None in of_k else mean_std(of_k) for of_k in values)


def validation_top1(runs: Sequence[Run], side: int) -> str:
    known = [run.validation[side] for run in runs if run.validation]
    return mean_std(known) if known else "–"


def validation_change(runs: Sequence[Run]) -> str:
    known = [run.validation[1] - run.validation[0] for run in runs if run.validation]
    return f"{100 * np.mean(known):+.1f}" if known else "–"


def with_validation(title: str, head: list[str], rows: list[list[str]]) -> Table:
    """Table without the validation column if that is empty."""
    place = head.index(VALIDATION)
    if all(row[place] == "–" for row in rows):
        head, *rows = ([*cells[:place], *cells[place + 1 :]] for cells in (head, *rows))
    return Table(title, head, rows)


def mean_std(values: Sequence[float]) -> str:
    """Mean of fractions in per cent and, for several, the sample standard deviation."""
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean}±{100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def group_accuracy(run: Run, name: str, shown: bool, k: int) -> tuple[float | None, float | None]:
    """Top-k before and after on the training classes of a set, or on the others; `None` without such images."""
    result = run.sets[name]
    chosen = result.in_classes(run.training_classes) == shown
    return result.accuracy("before", k, chosen), result.accuracy("after", k, chosen)


def averaged_models(results: Results) -> list[str]:
    """Models of the averages in Tables 10 and 11 and Figure 4: the base models, if any was measured, or else all."""
    return [model for model in results.models if model in BASE_MODELS] or results.models


def class_group_tables(results: Results, protocol: str = "paper") -> dict[str, Table]:
    """Tables 10 and 11: training classes (✓) and other classes (✗), with average changes over [`averaged_models`]."""
    titles = {"table_10": ("Table 10: real images", False), "table_11": ("Table 11: synthetic", True)}
    known = [run for run in finetuned(results.of(OURS)) if run.training_classes]
    tables = {}
    for name, (title, synthetic) in titles.items():
        sets = results.common_by_class(known, _of_kind(results, synthetic))
        if sets and any((of_set in SYNTHETIC) == synthetic for of_set in results.sets):
            tables[name] = _class_group_table(results, known, sets, title, protocol)
    return tables


def _class_group_table(
    results: Results, known: Sequence[Run], sets: Sequence[str], title: str, protocol: str
) -> Table:
    averaged, rows = averaged_models(results), []
    changes: dict[str, list[np.ndarray]] = {"✓": [], "✗": []}
    for model, mark in product(results.models, changes):
        runs = [run for run in known if run.model == model]
        if not runs:
            continue
        groups = [[[group_accuracy(run, name, mark == "✓", k) for k in (1, TOP)] for name in sets] for run in runs]
        values = np.array(groups, dtype=float)  # runs, sets, k, side
        for side, (version, original) in enumerate({"Original": "original", "Ours": "finetuned"}.items()):
            cells = _pairs(values.mean(axis=0)[:, :, side], "")
            rows.append([model, mark, version, validation_top1(runs, side), *cells])
            lead = [model, mark, f"{version}, published", "–"]
            published = f"{original}-{'training' if mark == '✓' else 'other'}-classes"
            rows += published_rows(lead, model, protocol, published, [(name, ("top1", "top5")) for name in sets])
        if model in averaged:
            changes[mark].append((values[..., 1] - values[..., 0]).mean(axis=0))
    of_averaged = [run for run in results.of(OURS) if run.model in averaged]
    for mark, of_models in changes.items():
        if of_models:
            cells = _pairs(np.mean(of_models, axis=0), "+")
            rows.append(["Avg. change", mark, "", validation_change(of_averaged), *cells])
    head = ["model", "train classes", "", VALIDATION, *map(title_of, sets)]
    return with_validation(f"{title}, training classes and others, top-1 and top-5 in per cent", head, rows)


def _pairs(values: np.ndarray, sign: str) -> list[str]:
    """Cells of top-1 and top-5 `(sets, 2)`."""
    return [" ".join("–" if np.isnan(v) else f"{100 * v:{sign}.1f}" for v in pair) for pair in values]
