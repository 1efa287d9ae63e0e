"""The same number of masks for each class: images are taken in their order until a class has them."""

from collections import Counter
from collections.abc import Callable, Iterator

from ..data.identity import row_digest
from ..data.parquet_writer import ShardWriter
from ..data.preparation import ROWS_PER_PART, DecodedRow


class PerClass:
    """Chooses the rows of a source by the masks that their classes have so far.

    Args:
        number: of masks of each class.
        writer: of the rows with masks, which an interrupted run may have begun.
    """

    def __init__(self, number: int, writer: ShardWriter):
        self.number = number
        self.written = writer.digests()
        self.kept = Counter(writer.kept("label"))
        self.labels = set()

    def rows(self, rows: Iterator[dict]) -> Iterator[dict]:
        """Rows that an interrupted run has written, then those of classes that have too few masks."""
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
        """Parts of the rows with no more rows of a class than it needs. The masks of a part are counted before the next."""
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
        """`finish` of [`write_rows`], with its masks counted."""

        def counted(decoded: Iterator[DecodedRow]) -> list[dict]:
            rows = finish(decoded)
            self.kept.update(row["label"] for row in rows if "problem" not in row)
            return rows

        return counted

    def lacking(self) -> dict[int, int]:
        """Numbers of masks of the classes that ran out of images, by label."""
        return {label: self.kept[label] for label in sorted(self.labels - {None}) if self.kept[label] < self.number}
