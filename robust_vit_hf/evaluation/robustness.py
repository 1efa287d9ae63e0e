"""Accuracy, calibration and relevance of a model, or of two (before and after finetuning), on evaluation sets.

Tables in the layout of the paper's Tables 1, 2, 10 and 11, and its class plots (Figures 8 to 14).
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedModel

from ..data.benchmarks import IMAGES_PER_SET, benchmarks
from ..class_names.label_mapping import align_labels, check_same_classes, classes_of_model
from ..class_names.imagenet import class_names
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..models.digest import weights_digest
from ..models.preprocessing import load_processor
from ..models.loading import load_model
from ..models.registry import MODELS, find_model
from ..utils.environment import environment
from ..utils.files import RUN_FILE, read_json, write_atomically, write_json
from .cache import measure_once
from .compare import Comparison
from .examples import EXAMPLES_FILE, KINDS, NUM_EXAMPLES, draw, explain, rows_of_kind, save_examples
from .plots import save_plots
from .protocols import EvaluationSet, Protocol, load_evaluation_sets, own_set
from .report import RESULTS_FILE, summarize
from .set_names import PAPER_SETS
from .tables import calibration_table, class_group_table, main_table, paper_tables


def evaluate_robustness(
    model: str,
    compare: str | None,
    sets: Sequence[tuple[str, str | None]],
    output_dir: Path,
    accelerator: Accelerator,
    *,
    dataset: str | None = None,
    split: str = "validation",
    training_data: str | None = None,
    train_split: str = "train",
    protocols: Sequence[Protocol] = ("paper", "native"),
    paper_model: str | None = None,
    images_per_set: int = IMAGES_PER_SET,
    batch_size: int = 32,
    num_workers: int = 0,
    settings: dict | None = None,
    originals: Path | None = None,
) -> str:
    """Measure models on sets, and write `results.json`, `tables.md`, `tables.tex`, `plots/`, the predictions of each image and, of
    two models, examples with their relevance maps.

    Results in `output_dir` from an earlier run are not measured again.

    Args:
        model, compare: the model, or the model before and after finetuning, as for [`load_model`].
        sets, images_per_set: as for [`load_evaluation_sets`].
        dataset, split: images of your own, measured as well, as for [`own_set`].
        training_data, train_split: images that `compare` was finetuned on, whose classes are shown apart.
        paper_model: the paper's name of `model`; by default that of the registered model with these weights.
        settings: options of the command, for `results.json`.
        originals: folder of results of original models, which several evaluations share.

    Returns:
        The tables, as Markdown; nothing in other processes than the main one.

    Raises:
        ValueError: sets or models that do not fit together, before the first set is measured.
        OSError: there is no such model or set.
    """
    names = {"before": model} | ({"after": compare} if compare else {})
    models = load_models(names, accelerator)
    with accelerator.main_process_first():
        loaded_sets = {
            protocol: load_sets(sets, dataset, split, protocol, images_per_set, models["before"])
            for protocol in protocols
        }
    processors = {
        protocol: {side: load_processor(name, protocol, models[side]) for side, name in names.items()}
        for protocol in protocols
    }
    if paper_model is None and (registered := find_model(model)):
        paper_model = MODELS[registered].paper_name
    digests = {side: weights_digest(loaded) for side, loaded in models.items()}
    model_names = classes_of_model(models["before"].config)
    classes = None
    if compare:
        classes = _training_classes(training_data, train_split, compare, loaded_sets[protocols[0]], model_names)
    bf16 = accelerator.mixed_precision == "bf16"
    markdown, latex = [], []
    results = {"settings": settings, "weights": digests, "paper_model": paper_model, **environment(), "protocols": {}}
    for protocol, of_protocol in loaded_sets.items():
        measured = {side: {} for side in models}
        for set_name, rows in of_protocol.items():
            for side in models:
                measured[side][set_name] = measure_once(
                    output_dir / protocol / set_name / side,
                    {"weights": digests[side], "bf16": bf16},
                    models[side],
                    set_name,
                    rows,
                    processors[protocol][side],
                    accelerator,
                    shared=originals if side == "before" else None,
                    batch_size=batch_size,
                    num_workers=num_workers,
                    description=f"{protocol}, {side}",
                )
        if not accelerator.is_main_process:
            continue
        comparison = Comparison(
            measured["before"],
            measured.get("after"),
            shifted=[name for name, rows in of_protocol.items() if rows.shifted],
            training_classes=classes,
        )
        results["protocols"][protocol] = summarize(comparison, of_protocol)
        rows, groups = (results["protocols"][protocol][key] for key in ("rows", "class_groups"))
        tables = [main_table(rows), *paper_tables(rows, protocol, paper_model)]
        tables += [calibration_table(rows), class_group_table(groups)]
        markdown.append(f"# Protocol `{protocol}`\n")
        for table in filter(None, tables):
            markdown.append(f"{table.title}:\n\n{table.markdown()}\n")
            latex.append(f"% protocol {protocol}\n{table.latex()}")
        plots = output_dir / "plots" / protocol
        plots.mkdir(parents=True, exist_ok=True)
        label_names = results["class_names"] = label_names_of(models["before"], of_protocol)
        save_plots(comparison, plots, label_names)
        if compare:
            examples = {}
            for kind in KINDS:
                drawn = draw(
                    rows_of_kind(kind, measured["before"], measured["after"], of_protocol), NUM_EXAMPLES, seed=0
                )
                examples[kind] = explain(drawn, models, processors[protocol], of_protocol, measured, label_names)
            save_examples(examples, output_dir / protocol / EXAMPLES_FILE)
    if accelerator.is_main_process:
        write_atomically(output_dir / "tables.md", "\n".join(markdown))
        write_atomically(output_dir / "tables.tex", "\n".join(latex))
        write_json(output_dir / RESULTS_FILE, results)
    return "\n".join(markdown)


def load_models(names: dict[str, str], accelerator: Accelerator) -> dict[str, PreTrainedModel]:
    """Models by side on the accelerator's device. Names and errors are those of [`load_model`].

    Raises:
        ValueError: they have other classes.
    """
    models = {side: load_model(name).to(accelerator.device) for side, name in names.items()}
    if len(models) > 1:
        check_same_classes(*(classes_of_model(loaded.config) for loaded in models.values()))
    return models


def load_sets(
    named: Sequence[tuple[str, str | None]],
    dataset: str | None,
    split: str,
    protocol: Protocol,
    images_per_set: int,
    model: PreTrainedModel,
) -> dict[str, EvaluationSet]:
    """Sets by name, and images of your own by their split, with labels of a model. Arguments are those of
    [`evaluate_robustness`].

    Raises:
        ValueError: a set that the model was not made for, or two of one name.
    """
    loaded = load_evaluation_sets(named, protocol, images_per_set)
    if dataset is not None:
        if split in loaded:
            raise ValueError(f"`{split}` is both a split of --dataset and one of --sets: measure one at a time.")
        loaded[split] = own_set(dataset, split)
    return {name: rows.for_model(name, model.config) for name, rows in loaded.items()}


def label_names_of(model: PreTrainedModel, sets: Collection[str]) -> dict[int, str]:
    """Names of a model's classes by label. Sets of the paper are of ImageNet, whose names not every model has."""
    return dict(enumerate(class_names())) if PAPER_SETS.keys() & set(sets) else model.config.id2label


def _training_classes(
    path: str | None, split: str, finetuned: str, sets: dict[str, EvaluationSet], model_names: list[str]
) -> frozenset[int] | None:
    """Classes of the images of the finetuning: those of `path`, or else those that the run recorded, or else those of the one
    benchmark that all sets are from."""
    if path is not None:
        dataset = load_masked_dataset(path, split)
        check_columns(dataset, path, needs_labels=True)
        return frozenset(align_labels(dataset, model_names, path).with_format(None).unique("label"))
    run = read_json(Path(finetuned, RUN_FILE))
    if run is not None and run["data"]["training_classes"] is not None:
        return frozenset(run["data"]["training_classes"])
    sources = {rows.source for rows in sets.values()}
    return (
        benchmarks()[sources.pop()].training_classes if len(sources) == 1 and sources <= benchmarks().keys() else None
    )
