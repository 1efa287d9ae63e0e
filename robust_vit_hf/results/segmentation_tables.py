"""Agreement of relevance maps with masks, as in the paper's Table 3."""

from collections.abc import Mapping

from .markdown_latex import Table
from .number_formats import change, percent
from .published_tables import published_rows


SEGMENTATION = {
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mIoU",
    "mean_ap": "mAP",
    "pointing_game": "pointing game",
    "energy": "energy",
    "auc": "AUC",
}


def attribution_table(
    scores: Mapping[str, Mapping[str, Mapping]], set_name: str, num_images: int, paper_model: str | None
) -> Table:
    """Table 3 with further methods and scores, in per cent, and the published values of the paper's model."""
    cells = []
    for method in scores["before"]:
        for side, version in {"before": "original", "after": "finetuned"}.items():
            if side in scores:
                cells.append([f"{method}, {version}", *(percent(scores[side][method][name]) for name in SEGMENTATION)])
            if method == "gae":
                lead = [f"gae, {version}, published"]
                columns = [(set_name, (name,)) for name in SEGMENTATION]
                cells += published_rows(lead, paper_model, "paper", version, columns)
        if "after" in scores:
            before, after = scores["before"][method], scores["after"][method]
            cells.append([f"{method}, change", *(change(before[name], after[name]) for name in SEGMENTATION)])
    title = f"Relevance maps and masks of {set_name}, {num_images} images, in per cent"
    return Table(title, ["method, model", *SEGMENTATION.values()], cells)
