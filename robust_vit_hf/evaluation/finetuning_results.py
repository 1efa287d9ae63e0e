"""Results of a finetuning run: tables, the before/after figure and examples."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path

from ..results.run_results import Run
from ..results.run_summary import summarize
from ..results.run_tables import tables_of
from .before_after_examples import EXAMPLES_FILE, KINDS, NUM_EXAMPLES, draw, explain, rows_of_kind, save_examples
from .before_after_figure import before_after_figure
from .results_json import write_results_json
from .session import Session


FIGURE_FILE = "before_after.png"
NUM_SHOWN = 4  # images in a group of the figure
NUM_CANDIDATES = 60  # corrected images searched for the largest drop of relevance on the background


def write_finetuning_results(folder: Path, run: Run, session: Session, settings: dict) -> str:
    """Write the results of a run to an existing folder. Returns the first table, as Markdown."""
    _write_examples(folder, run, session)
    tables = tables_of(run)
    facts = summarize(run) | {"tables": [asdict(table) for table in tables]}
    write_results_json(session, folder, settings, facts, tables)
    return tables[0].markdown()


def _write_examples(folder: Path, run: Run, session: Session) -> None:
    """Write the examples and a figure of some of them."""
    sets = session.sets
    found = {kind: rows_of_kind(kind, run.sets, sets) for kind in KINDS}
    masked = {name: rows for name, rows in found["corrected"].items() if "mask" in sets[name].dataset.column_names}
    candidates = draw(masked, NUM_CANDIDATES, seed=0)
    drawn = {kind: draw(rows, NUM_EXAMPLES, seed=0) for kind, rows in found.items()}
    wanted = list(dict.fromkeys([*candidates, *chain.from_iterable(drawn.values())]))
    by_image = dict(zip(wanted, explain(wanted, session, run.sets), strict=True))
    examples = {kind: [by_image[image] for image in images] for kind, images in drawn.items()}
    if any(examples.values()):
        save_examples(examples, folder / EXAMPLES_FILE)
    # Both shares are unknown where a mask is empty.
    complete = [by_image[image] for image in candidates if len(by_image[image].background) == 2]
    ranked = sorted(complete, key=lambda example: example.background["after"] - example.background["before"])
    groups = {f"Corrected, of {len(ranked)} those whose\nrelevance left the background most": ranked[:NUM_SHOWN]}
    titles = {"corrected": "Corrected", "broken": "Got worse"}
    if not drawn["corrected"] and not drawn["broken"]:
        titles = {"unchanged": "No prediction changed"}
    for kind, title in titles.items():
        total = sum(map(len, found[kind].values()))
        groups[f"{title}, of {total}\ndrawn at random (seed 0)"] = examples[kind][:NUM_SHOWN]
    if any(example.maps for shown in groups.values() for example in shown):
        before_after_figure([groups]).savefig(folder / FIGURE_FILE, dpi=90)
