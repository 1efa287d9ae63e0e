"""Cached results and the fingerprint of their inputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pyarrow import parquet as pq

from ..utils.files import atomic_file, json_digest, read_json, write_json


FINGERPRINT_FILE, SCORES_FILE = "fingerprint.json", "scores.json"


@dataclass
class Measured:
    """Result of a measurement on a set.

    Args:
        columns: values of each image by name, such as `predictions`, in the order of the set.
        scores: scores over all images, as JSON values.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    scores: dict = field(default_factory=dict)

    def save(self, folder: Path, rows_file: str | None) -> None:
        """Write the rows, if any, and then `scores.json`, which marks the result as complete."""
        if rows_file is not None:
            features = {name: _feature(values) for name, values in self.columns.items()}
            columns = {name: list(values) for name, values in self.columns.items()}
            with atomic_file(folder / rows_file) as partial:
                pq.write_table(pa.table(columns, schema=datasets.Features(features).arrow_schema), partial)
        write_json(folder / SCORES_FILE, self.scores)

    @classmethod
    def load(cls, folder: Path, rows_file: str | None) -> "Measured | None":
        """Read a result written by [`save`]; `None` if it is missing or incomplete.

        Raises:
            ValueError: a file is damaged or has other contents; names the file.
        """
        scores, path = read_json(folder / SCORES_FILE), folder / (rows_file or "")
        if scores is None or (rows_file is not None and not path.is_file()):
            return None
        if not isinstance(scores, dict):
            raise ValueError(f"`{folder / SCORES_FILE}` holds no scores: delete `{folder}`, and measure it again.")
        for name in scores.keys() & {"per_class_top1", "per_class_top5"}:  # JSON has no integer keys
            scores[name] = {int(label): value for label, value in scores[name].items()}
        try:
            columns = {} if rows_file is None else pq.read_table(path).to_pydict()
        except pa.ArrowInvalid as error:
            raise ValueError(f"`{path}` is damaged: {error}. Delete `{folder}`, and measure it again.") from error
        return cls(columns, scores)


def _feature(values: Any) -> datasets.features.features.FeatureType:
    """Type of a column: text, numbers, or lists of class ids."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str):
        return datasets.Value("string")
    if isinstance(first, (list, np.ndarray)):
        return datasets.List(datasets.Value("int64"))
    if isinstance(first, (int, np.integer)) and not isinstance(first, bool):
        return datasets.Value("int64")
    return datasets.Value("bool" if isinstance(first, (bool, np.bool_)) else "float64")


class Store:
    """Folder of results with the fingerprints of their inputs.

    Args:
        folder: root of the results; `None` to save nothing.
        shared: second folder, with results of many models and sets, that is also read and written.
    """

    def __init__(self, folder: Path | None, shared: Path | None = None):
        self.folder, self.shared = folder, shared

    def result(
        self,
        place: str,
        inputs: dict,
        measure: Callable[[Path | None], Measured],
        accelerator: Accelerator,
        rows_file: str | None,
        *,
        shared_as: str | None = None,
    ) -> Measured:
        """Return the cached result for these inputs, or measure and save it.

        Args:
            place: folder of the result within the store's folder.
            inputs: all that the result depends on, as a JSON object.
            measure: computes the result; may save partial results in the folder that it is given.
            shared_as: prefix of the result's name in the shared folder; `None` not to use that folder.

        Raises:
            ValueError: this place holds a result of other inputs, or as raised by `measure`.
        """
        if self.folder is None:
            return measure(None)
        folder, main = self.folder / place, accelerator.is_main_process
        check_fingerprint(folder, inputs)
        found = Measured.load(folder, rows_file)
        is_known = [found is not None]
        broadcast_object_list(is_known)  # processes must agree, whatever another job writes meanwhile
        if is_known[0]:
            return Measured.load(folder, rows_file) if found is None else found
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / FINGERPRINT_FILE, inputs)
        if shared_as is not None and self.shared is not None:
            name = f"{shared_as}-{json_digest(inputs)}"
            found = Store(self.shared).result(name, inputs, measure, accelerator, rows_file)
        else:
            found = measure(folder)
        if main:
            found.save(folder, rows_file)
        return found

    def known(self, place: str, inputs: dict, rows_file: str | None) -> Measured | None:
        """Return the cached result for these inputs in any precision, if there is one.

        Raises:
            OtherInputs: this place holds a result of other inputs.
            ValueError: the result has no recorded inputs or is damaged.
        """
        folder, recorded = self.folder / place, self.recorded(place)
        precision = {"precision": recorded["precision"]} if "precision" in recorded else {}
        check_fingerprint(folder, inputs | precision)
        return Measured.load(folder, rows_file)

    def recorded(self, place: str) -> dict:
        """Recorded inputs of the result in a place; empty without a result."""
        return read_json(self.folder / place / FINGERPRINT_FILE) or {}


class OtherInputs(ValueError):
    """A folder holds a result of other inputs.

    Args:
        differing: names of the inputs that differ.
    """

    def __init__(self, folder: Path, differing: list[str]):
        super().__init__(
            f"`{folder}` holds the result of another evaluation, which differs in: {', '.join(differing)}. Choose "
            "another --output_dir, or delete it."
        )
        self.folder, self.differing = folder, differing


def check_fingerprint(folder: Path, inputs: dict) -> None:
    """Check that a folder holds no complete or partial result of other inputs.

    Raises:
        OtherInputs: it holds one.
        ValueError: it holds a result without recorded inputs.
    """
    known = read_json(folder / FINGERPRINT_FILE)
    others = {path.name for path in folder.iterdir()} - {FINGERPRINT_FILE} if folder.is_dir() else set()
    others = {name for name in others if not name.startswith(".") and not name.endswith(".partial")}
    if known == inputs or not others:
        return
    if known is None:
        raise ValueError(
            f"`{folder}` holds results without a `{FINGERPRINT_FILE}`, such as results of an earlier version. Choose another "
            "--output_dir, or delete it."
        )
    raise OtherInputs(folder, [key for key in {**known, **inputs} if known.get(key) != inputs.get(key)])
