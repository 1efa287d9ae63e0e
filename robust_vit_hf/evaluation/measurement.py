"""Measurements: what is measured of a side on a set. A new one is a file in `measurements/`."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from .session import Session, Side
from .sets import EvaluationSet
from .store import Measured


@dataclass(frozen=True)
class Measurement(ABC):
    """A function of a side and a set, which gives rows for the images and scores of them all. Its fields are options that the
    result depends on.

    Args:
        batch_size, num_workers: images at once, and workers that read images, of each process. Results do not depend on them.
    """

    rows_file: ClassVar[str] = "rows.parquet"  # in the folder of a result
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
            folder: for parts of the result, from which an interrupted measurement goes on.

        Returns:
            In every process the whole rows; scores in the main process.
        """

    def inputs(self) -> dict:
        """What a result depends on beside side and set, as a JSON object."""
        return {name: value for name, value in asdict(self).items() if name not in self.free}


def measure(session: Session, measurement: Measurement, within: str = "") -> dict[str, dict[str, Measured]]:
    """Results by set and side: those in the store, and the others measured now.

    Args:
        within: folder of the results within that of the store.

    Raises:
        ValueError: the store has results of other inputs in their place, or as the measurement.
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
