"""Top-1 on public sets in the format of the Hub's leaderboards, `.eval_results/*.yaml`, beside the card's `model-index`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from ..data.known_sets import EVALUATION_SETS, KNOWN_SETS
from ..utils.files import write_atomically


# Files of this package: one for each protocol, so that a benchmark has one score in a file. Others in the folder are the user's.
EVAL_RESULTS_FILES = f"{EVAL_RESULTS_FOLDER}/robust-vit-hf-*.yaml"


def write_eval_results(folder: Path, measurements: Iterable[Mapping]) -> None:
    """Write a file for each protocol whose rows have public sets, and remove those of earlier results. Measurements have `protocol`,
    and `sources` and `rows` of [`summarize`].

    Source: https://huggingface.co/docs/hub/eval-results
    """
    for path in folder.glob(EVAL_RESULTS_FILES):
        path.unlink()
    for part in measurements:
        if entries := public_results(part["protocol"], part["rows"], part.get("sources", {})):
            path = folder / EVAL_RESULTS_FILES.replace("*", part["protocol"])
            write_atomically(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))


def public_results(protocol: str, rows: Iterable[Mapping], sources: Mapping[str, str]) -> list[EvalResultEntry]:
    """Top-1 in per cent of the finetuned model on each set that was read from a public copy on the Hub. Other sources, such as
    archives, may hold another variant than the copies."""
    entries = []
    for row in rows:
        name = row["set"]
        if name not in EVALUATION_SETS or row["top1_after"] is None:
            continue
        known, source = KNOWN_SETS[name], sources.get(name)
        copies = {**dict.fromkeys(known.hub_files, (None, None)), **known.hub}
        source = next(iter(copies), None) if source == name else source  # without a source, the first copy is read
        if source in copies:
            task = copies[source][0] or known.part.get("factor", "default")
            notes = f"top-1 in per cent on {row['num_images']:,} images of {name}, protocol {protocol}"
            value = round(100 * row["top1_after"], 2)
            entries.append(EvalResultEntry(dataset_id=source, task_id=task, value=value, notes=notes))
    return entries
