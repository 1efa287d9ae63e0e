"""Selection of images in order until each class has the same number of masks."""

from collections import Counter
from collections.abc import Callable, Iterator

from ..data.dataset_digest import row_digest
from ..data.parquet_writer import ShardWriter
from ..data.prepare import ROWS_PER_PART, DecodedRow


class PerClass:
    """Selects rows of classes that do not have enough masks yet.

    Args:
        number: number of masks per class.
        writer: writer of the rows with masks, possibly resuming an interrupted run.
    """

    def __init__(self, number: int, writer: ShardWriter):
        self.number = number
        self.written = writer.digests()
        self.kept = Counter(writer.kept("label"))
        self.labels = set()

    def rows(self, rows: Iterator[dict]) -> Iterator[dict]:
        """Rows already written by an interrupted run, then rows of classes with too few masks."""
        for digest in self.written:
            for row in rows:
                self.labels.add(row.get("label"))
                if row_digest(row) == digest:
                    yield row
                    break
        for row in rows:
            self.labels.add(row.get("label"))
            if self.kept[row.get("label")] < self.number:
                yield row

    def parts(self, rows: Iterator[dict]) -> Iterator[list[dict]]:
        """Parts of the rows, with at most as many rows of a class as it still needs. A part's masks are counted before
        the next part."""
        part, asked = [], Counter()
        for row in rows:
            label = row.get("label")
            if len(part) == ROWS_PER_PART or self.kept[label] < self.number <= self.kept[label] + asked[label]:
                yield part
                part, asked = [], Counter()
            if self.kept[label] < self.number:
                part.append(row)
                asked[label] += 1
        if part:
            yield part

    def counting(self, finish: Callable[[Iterator[DecodedRow]], list[dict]]) -> Callable:
        """Wrap `finish` of [`write_rows`] to count its masks."""

        def counted(decoded: Iterator[DecodedRow]) -> list[dict]:
            rows = finish(decoded)
            self.kept.update(row["label"] for row in rows if "problem" not in row)
            return rows

        return counted

    def lacking(self) -> dict[int, int]:
        """Numbers of masks, by label, of classes that ran out of images."""
        return {label: self.kept[label] for label in sorted(self.labels - {None}) if self.kept[label] < self.number}
