"""Selection of images in order until each class has the same number of masks."""

from collections import Counter
from collections.abc import Callable, Iterator

from ..data.split_writer import SplitWriter
from ..data.write_rows import ROWS_PER_PART, DecodedRow


class PerClass:
    """Selects rows of classes that have fewer than `number` masks yet, also of an interrupted run of the writer."""

    def __init__(self, number: int, writer: SplitWriter):
        self.number = number
        kept, rejected = (writer.written(["file_name", "label"], rejected) for rejected in (False, True))
        self.written = Counter((row["file_name"], row["label"]) for row in kept + rejected)
        self.num_written = len(kept) + len(rejected)
        self.kept = Counter(row["label"] for row in kept)
        self.labels = set()

    def rows(self, rows: Iterator[dict]) -> Iterator[dict]:
        """Rows that an interrupted run has written, and rows of classes with too few masks. A class of which it left rows
        out had enough, and has no later ones."""
        for row in rows:
            label = row.get("label")
            self.labels.add(label)
            if self.num_written and self.written[row["file_name"], label]:
                self.written[row["file_name"], label] -= 1
                self.num_written -= 1
                yield row
            elif not self.num_written and self.kept[label] < self.number:
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

    def counted(
        self, finish: Callable[[Iterator[DecodedRow]], list[dict]], decoded: Iterator[DecodedRow]
    ) -> list[dict]:
        """Rows of `finish`, of [`write_rows`], whose masks count from now on."""
        rows = finish(decoded)
        self.kept.update(row["label"] for row in rows if "problem" not in row)
        return rows

    def lacking(self) -> dict[int, int]:
        """Numbers of masks, by label, of classes that ran out of images."""
        return {label: self.kept[label] for label in sorted(self.labels - {None}) if self.kept[label] < self.number}
