"""Base class of measurements of a model on a set. A new measurement is a module in `measurements/`."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from ..session import Session, Side
from ..sets import EvaluationSet
from ..store import Measured


@dataclass(frozen=True)
class Measurement(ABC):
    """A measurement of a side on a set: rows, one or more per image, and scores over all images. Its fields are the
    options that the result depends on.

    Args:
        batch_size, num_workers: batch size and data loading workers of each process. Results do not depend on them.
    """

    rows_file: ClassVar[str | None] = "rows.parquet"  # in the folder of a result; `None` for scores without rows
    free: ClassVar[tuple[str, ...]] = ("batch_size", "num_workers")  # fields that do not change a result

    batch_size: int = 32
    num_workers: int = 0

    @abstractmethod
    def measure(
        self, side: Side, rows: EvaluationSet, session: Session, description: str, folder: Path | None
    ) -> Measured:
        """Measure a side on a set.

        Args:
            description: name of the pass, for the progress and errors.
            folder: for partial results, from which an interrupted measurement resumes.

        Returns:
            All rows in every process; scores only in the main process.
        """

    def inputs(self) -> dict:
        """Inputs of a result other than side and set, as a JSON object."""
        inputs = {name: value for name, value in asdict(self).items() if name not in self.free}
        return json.loads(json.dumps(inputs))  # tuples become lists, as when read from a file


def measure(session: Session, measurement: Measurement, within: str = "") -> dict[str, dict[str, Measured]]:
    """Results by set and side, from the store or else measured now.

    Args:
        within: folder of the results within the store's folder.

    Raises:
        ValueError: the store holds results of other inputs under the same name, or as raised by the measurement.
    """
    results: dict[str, dict[str, Measured]] = {}
    for name, rows in session.sets.items():
        results[name] = {}
        for side, measured in session.sides.items():

            def run(folder: Path | None, side=side, measured=measured, name=name, rows=rows) -> Measured:
                return measurement.measure(measured, rows, session, f"{name}, {side}", folder)

            results[name][side] = session.store.result(
                "/".join(filter(None, (within, name, side))),
                session.inputs(side, rows) | measurement.inputs(),
                run,
                session.accelerator,
                measurement.rows_file,
                shared_as=name if side == "before" else None,
            )
    return results
