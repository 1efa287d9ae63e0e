"""Cached results and the fingerprint of their inputs."""

import hashlib
import json
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from transformers import BaseImageProcessor

from ..utils.files import read_json, write_json
from .evaluate_sets import SetResult, evaluate_sets
from .protocols import EvaluationSet


FINGERPRINT_FILE = "fingerprint.json"


def check_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Raise a `ValueError` if a folder holds the result of other inputs. A fingerprint is a JSON object of all inputs."""
    known = read_json(folder / FINGERPRINT_FILE)
    if known is None and folder.is_dir() and any(folder.glob("*.json")):
        raise ValueError(
            f"`{folder}` holds results without a `{FINGERPRINT_FILE}`, such as results of an earlier version. Choose another "
            "--output_dir, or delete it."
        )
    if known not in (None, fingerprint):
        differing = ", ".join(key for key, value in fingerprint.items() if known.get(key) != value)
        raise ValueError(
            f"`{folder}` holds the result of another evaluation, which differs in: {differing}. Choose another "
            "--output_dir, or delete it."
        )


def write_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Write a fingerprint. It is written before the result, so that every result has one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FINGERPRINT_FILE, fingerprint)


def fingerprint_of(identity: dict, rows: EvaluationSet, processor: BaseImageProcessor) -> dict:
    """The inputs of a result as a JSON object; `identity` is that of [`measure_once`]."""
    return identity | {
        "images": len(rows.dataset),
        "rows": rows.digest,
        "processor": json.loads(processor.to_json_string()),
    }


def measure_once(
    folder: Path,
    identity: dict,
    model: nn.Module,
    name: str,
    rows: EvaluationSet,
    processor: BaseImageProcessor,
    accelerator: Accelerator,
    *,
    shared: Path | None = None,
    **options,
) -> SetResult:
    """Result of a model on one set, from `folder` if an earlier run saved it there.

    Args:
        identity: what tells the model and its precision from others, as a JSON object.
        shared: folder of results of many models and sets, where the result is looked for, and kept, as well.
        options: as for [`evaluate_sets`].

    Raises:
        ValueError: `folder` holds the result of other inputs, or as [`evaluate_sets`].
    """
    fingerprint = fingerprint_of(identity, rows, processor)
    check_fingerprint(folder, fingerprint)
    result = SetResult.load(folder)
    accelerator.wait_for_everyone()  # until all have looked, before one writes
    if result is None:
        if shared is not None:
            key = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]
            within = shared / f"{name}-{key}"
            result = measure_once(within, identity, model, name, rows, processor, accelerator, **options)
        else:
            result = evaluate_sets(model, {name: rows}, processor, accelerator, **options)[name]
        if accelerator.is_main_process:
            write_fingerprint(folder, fingerprint)
            result.save(folder)
    return result
