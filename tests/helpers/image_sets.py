"""Sets of the paper, loaded as users load them."""

from robust_vit_hf import load_image_set


def both_ways(name: str, source=None, **options) -> list[dict]:
    """Rows of a set, after checking that streaming gives the same as the table."""
    table = load_image_set(name, source, **options)
    stream = load_image_set(name, source, streaming=True, **options)
    assert dict(table.features) == dict(stream.features)
    for row, streamed in zip(table, stream, strict=True):
        assert row["image"].tobytes() == streamed["image"].tobytes()
        assert {**row, "image": None} == {**streamed, "image": None}
    return list(table)


def labels_and_names(rows: list[dict]) -> list[tuple]:
    return [(row["label"], row["file_name"]) for row in rows]
