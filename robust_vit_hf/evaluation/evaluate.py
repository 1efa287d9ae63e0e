"""`robust-vit evaluate`: accuracy, calibration and relevance of one or two models on evaluation sets."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

from ..data import emoji_shift
from ..data.classes import align_labels
from ..data.find_images import find_images
from ..data.known_sets import BUNDLED_BENCHMARK
from ..models.image_processors import Protocol, is_of_paper, resolve_protocol
from ..results.plots import run_figures, save_figure
from ..results.run_results import PREDICTIONS_FILE
from ..results.tables import Table, summarize, tables_of
from ..utils.cache import Cache
from ..utils.files import RUN_FILE, read_json
from .accuracy import Accuracy, set_result
from .examples import write_before_after
from .options import EvaluateOptions
from .session import Session, measure, open_session, save_predictions, write_results_json
from .sets import load_sets


def evaluate(options: EvaluateOptions, cache: Cache | None = None) -> str:
    """Measure models on sets, and write `results.json`, tables, plots, predictions and, for two models, examples.
    Measurements are those of the output folder's cache, or of one that several evaluations share. Returns the tables as
    Markdown; an empty string outside the main process."""
    protocols, folder = _protocols(options), options.output_dir
    models = options.model, options.compare, protocols[0]
    with open_session(*models, folder, cache=cache, bf16=options.bf16, passes=options.passes) as opened:
        sessions = []
        with opened.accelerator.main_process_first():
            for protocol in protocols:
                session = opened if protocol == opened.protocol else opened.under(protocol)
                sessions.append(session.with_sets(load_sets(options, protocol, options.images_per_set)))
        classes = _training_classes(options, sessions[0])
        facts: dict = {"protocols": {}}
        parts: list[str | Table] = []
        for session in sessions:
            of_protocol = _evaluate(session, classes, folder)
            facts["protocols"][session.protocol], tables_and_notes = of_protocol
            parts += tables_and_notes
        if not parts:
            return ""
        facts["training_classes"] = None if classes is None else sorted(classes)
        markdown = write_results_json(session, folder, asdict(options) | {"protocols": protocols}, facts, parts)
    return f"\n{markdown}\nresults.json, tables, plots, examples and the predictions of each image: {folder}"


def _evaluate(session: Session, classes: frozenset[int] | None, output_dir: Path) -> tuple[dict, list[str | Table]]:
    """Measure under one protocol, and write plots and examples. Returns results and tables, in the main process."""
    measured = measure(session, Accuracy())
    results = {name: set_result(name, rows, measured[name]) for name, rows in session.sets.items()}
    tables, folder = tables_of(results, classes), output_dir / session.protocol
    save_predictions(folder / PREDICTIONS_FILE, session, measured)
    if not session.accelerator.is_main_process:
        return {}, []
    summary, notes = summarize(results, classes), session.notes
    for name, figure in run_figures(summary, session.label_names):
        save_figure(figure, output_dir / "plots" / session.protocol, name)
    if "after" in session.sides:
        write_before_after(folder, results, session)
    parts: list[str | Table] = [f"# Protocol `{session.protocol}`", *notes, *tables]
    return summary | {"tables": [asdict(table) for table in tables], "notes": notes}, parts


def _protocols(options: EvaluateOptions) -> list[Protocol]:
    if options.protocols:
        return cast(list[Protocol], options.protocols)
    protocol = resolve_protocol(None, options.model, options.compare)
    return ["paper", "native"] if is_of_paper(options.model) and protocol != "model" else [protocol]


def _training_classes(options: EvaluateOptions, session: Session) -> frozenset[int] | None:
    """Classes that the second model was finetuned on: from `training_data`, the run's record, or the benchmark."""
    path = options.training_data
    if options.compare is None:
        return None
    if path is not None:
        rows = find_images(path, options.train_split, ("label",)).labelled().rows
        return frozenset(align_labels(rows, session.classes, path).with_format(None).unique("label"))
    recorded = (read_json(Path(options.compare, RUN_FILE)) or {}).get("data", {}).get("training_classes")
    if recorded is not None:
        return frozenset(recorded)
    is_bundled = {rows.source for rows in session.sets.values()} == {BUNDLED_BENCHMARK}
    return frozenset(emoji_shift.training_classes()) if is_bundled else None
