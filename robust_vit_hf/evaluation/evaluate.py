"""`robust-vit evaluate`: accuracy, calibration and relevance of one or two models on evaluation sets."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from ..data.benchmarks import benchmarks
from ..data.find_images import find_images
from ..data.label_mapping import align_labels
from ..models.image_processors import Protocol, is_of_paper, resolve_protocol
from ..results.plots import run_figures, save_figure
from ..results.run_results import Run
from ..results.run_tables import tables_of
from ..results.set_tables import cut_out_table, sensitivity_table
from ..results.summary import summarize
from ..results.tables import Table
from ..utils.files import RUN_FILE, read_json
from ..utils.stage import Stage
from .examples import EXAMPLES_FILE, KINDS, NUM_EXAMPLES, draw, explain, rows_of_kind, save_examples
from .measurements.accuracy import Accuracy, measure_accuracy
from .measurements.base import Measurement, measure
from .measurements.noise_sensitivity import Sensitivity
from .measurements.other_backgrounds import Backgrounds
from .options import EvaluateOptions
from .results_files import write_results_json
from .session import Session, open_session
from .sets import EvaluationSet, load_sets, with_objects


# Measurement and table of the options that need masks.
OF_MASKS: dict[str, tuple[Callable[..., Measurement], Callable[..., Table]]] = {
    "cut_out": (partial(Backgrounds, conditions=("original", "only_fg"), relevance=False), cut_out_table),
    "sensitivity": (Sensitivity, sensitivity_table),
}


def evaluate(options: EvaluateOptions, originals: Path | None = None) -> str:
    """Measure models on sets. Writes `results.json`, `tables.md`, `tables.tex`, `plots/`, the predictions for each
    image and, for two models, examples with relevance maps. Results already in the output folder are reused, and those of original
    models in the folder `originals`, which several evaluations share."""
    options = replace(options, protocols=_protocols(options))
    folder = options.output_dir
    stage = Stage(folder, {"command": "evaluate"})
    with open_session(options, options.protocols[0], stage, bf16=options.bf16, shared=originals) as opened:
        sessions = []
        with opened.accelerator.main_process_first():
            for protocol in options.protocols:
                session = opened if protocol == opened.protocol else opened.under(protocol)
                sessions.append(session.with_sets(load_sets(options, protocol, options.images_per_set)))
        wanted = [name for name in OF_MASKS if getattr(options, name)]
        masked = {session.protocol: _masked_sets(session, wanted) for session in sessions}
        paper_model = options.paper_model or opened.paper_model
        classes = _training_classes(options, sessions[0]) if options.compare else None
        protocols: dict[str, dict] = {}
        parts: list[str | Table] = []
        accuracy = Accuracy(options.batch_size, options.num_workers)
        for session in sessions:
            sets = measure_accuracy(session, accuracy, session.protocol)
            of_masks = [_of_masks(name, session, masked[session.protocol], options) for name in wanted]
            if not session.accelerator.is_main_process:
                continue
            run = Run(sets, classes, model=paper_model or opened.sides["before"].name)
            tables = [*tables_of(run), *of_masks]
            summary, notes = summarize(run), session.without_map
            protocols[session.protocol] = summary | {"tables": [asdict(table) for table in tables], "notes": notes}
            parts += [f"# Protocol `{session.protocol}`", *notes, *tables]
            _write_pictures(session, run, summary, options)
        if not parts:
            return ""
        facts = {"paper_model": paper_model, "protocols": protocols}
        facts["training_classes"] = None if classes is None else sorted(classes)
        markdown = write_results_json(sessions[-1], folder, asdict(options), facts, parts)
    return f"\n{markdown}\nresults.json, tables, plots, examples and the predictions of each image: {folder}"


def _write_pictures(session: Session, run: Run, summary: dict, options: EvaluateOptions) -> None:
    for name, figure, *_ in run_figures(summary, session.label_names):
        save_figure(figure, options.output_dir / "plots" / session.protocol, name)
    if options.compare:
        drawn = {kind: draw(rows_of_kind(kind, run.sets, session.sets), NUM_EXAMPLES, seed=0) for kind in KINDS}
        examples = {kind: explain(images, session, run.sets) for kind, images in drawn.items()}
        save_examples(examples, options.output_dir / session.protocol / EXAMPLES_FILE)


def _masked_sets(session: Session, wanted: list[str]) -> dict[str, EvaluationSet]:
    """The labelled images of the sets with masks, if an option needs them."""
    masked = with_objects(session.sets) if wanted else {}
    if wanted and not masked:
        raise ValueError(
            f"--{' and --'.join(wanted)}: the object is known by its mask, and none of {', '.join(session.sets)} has masks and "
            "labels. `robust-vit masks` makes masks."
        )
    return masked


def _of_masks(name: str, session: Session, masked: Mapping[str, EvaluationSet], options: EvaluateOptions) -> Table:
    measurement, table = OF_MASKS[name]
    of_options = measurement(options.batch_size, options.num_workers)
    measured = measure(replace(session, sets=masked), of_options, f"{session.protocol}-{name}")
    return table({of: {side: one.columns for side, one in sides.items()} for of, sides in measured.items()})


def _protocols(options: EvaluateOptions) -> list[Protocol]:
    """The given protocols; else `paper` and `native` for the registered models, and one for all others."""
    if options.protocols:
        return options.protocols
    protocol = resolve_protocol(None, options.model, options.compare, paper_model=options.paper_model)
    registered = options.paper_model or is_of_paper(options.model)
    return ["paper", "native"] if registered and protocol != "model" else [protocol]


def _training_classes(options: EvaluateOptions, session: Session) -> frozenset[int] | None:
    """Classes of the finetuning images: from `training_data`, the run's record, or the benchmark of all sets."""
    path = options.training_data
    if path is not None:
        rows = find_images(path, options.train_split, ("label",)).rows
        return frozenset(align_labels(rows, session.classes, path).with_format(None).unique("label"))
    recorded = (read_json(Path(options.compare, RUN_FILE)) or {}).get("data", {}).get("training_classes")
    if recorded is not None:
        return frozenset(recorded)
    source, *others = {rows.source for rows in session.sets.values()}
    return benchmarks()[source].training_classes if source in benchmarks() and not others else None
