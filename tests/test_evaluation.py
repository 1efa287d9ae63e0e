"""Accuracy and mean IoU by hand, and the before/after table."""

import json

import pytest
import torch
from accelerate import Accelerator

from robust_vit_hf import relevance_map
from robust_vit_hf.evaluation import Comparison, SetResult, evaluate_sets, mean_iou, segmentation_confusion
from robust_vit_hf.report import write_report
from robust_vit_hf.transforms import eval_transform

from .conftest import masked_dataset, tiny_vit


def test_mean_iou_by_hand():
    relevance = torch.tensor([[[[0.9, 0.8], [0.1, 0.2]]]])  # mean 0.5: the first row is foreground
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    confusion = segmentation_confusion(relevance, mask)
    assert confusion.tolist() == [[2, 1], [0, 1]]
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_pixel_at_the_mean_is_background():
    assert segmentation_confusion(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).tolist() == [[4, 0], [0, 0]]


def test_mean_iou_leaves_out_absent_classes():
    assert mean_iou(torch.tensor([[4, 0], [0, 0]])) == 1


def test_counts_of_a_batch_are_those_of_its_images():
    relevance, mask = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    parts = sum(segmentation_confusion(r[None], m[None]) for r, m in zip(relevance, mask, strict=True))
    assert torch.equal(segmentation_confusion(relevance, mask), parts)


def test_evaluate_sets(processor):
    model, dataset = tiny_vit(), masked_dataset(5)
    accelerator = Accelerator(cpu=True)
    result = evaluate_sets(model, {"noise": dataset}, processor, accelerator, batch_size=2)["noise"]
    rows = dataset.with_transform(eval_transform(processor))[:]
    output = relevance_map(model, torch.stack(rows["pixel_values"]))
    assert torch.equal(result.predictions, output.logits.argmax(1))
    assert result.labels.tolist() == [0, 1, 2, 3, 0]
    assert torch.equal(result.confusion, segmentation_confusion(output.relevance, torch.stack(rows["mask"])))

    fast = evaluate_sets(model, {"noise": dataset}, processor, accelerator, relevance=False)["noise"]
    assert torch.equal(fast.predictions, result.predictions)
    assert fast.confusion is None and fast.mean_iou is None
    unlabelled = evaluate_sets(model, {"noise": dataset.remove_columns("label")}, processor, accelerator)["noise"]
    assert unlabelled.top1 is None and torch.equal(unlabelled.confusion, result.confusion)


def result(correct: int, of: int = 4, confusion=((2, 1), (0, 1))) -> SetResult:
    labels = torch.zeros(of, dtype=torch.long)
    return SetResult((torch.arange(of) >= correct).long(), labels, torch.tensor(confusion))


def comparison() -> Comparison:
    before = {"val": result(4), "a": result(1), "b": result(2)}
    after = {"val": result(3), "a": result(3), "b": result(2)}
    return Comparison(before, after, {"val": result(4), "a": result(1), "b": result(1)}, shifted=["a", "b"])


def test_comparison_by_hand():
    rows = {row["set"]: row for row in comparison().rows()}
    assert (rows["val"]["top1_before"], rows["val"]["top1_after"]) == (1, 0.75)
    mean = rows["mean of the shifted sets"]
    assert (mean["top1_before"], mean["top1_after"], mean["top1_control"]) == (0.375, 0.625, 0.25)
    assert mean["num_images"] == 8 and mean["mean_iou_before"] == pytest.approx(7 / 12)


def test_markdown():
    lines = comparison().markdown().splitlines()
    assert lines[2] == "| val | 4 | 100.0 | 75.0 | -25.0 | 100.0 (+0.0) | 58.3 | 58.3 |"
    assert lines[-1] == "| mean of the shifted sets | 8 | 37.5 | 62.5 | +25.0 | 25.0 (-12.5) | 58.3 | 58.3 |"
    plain = Comparison(comparison().before, comparison().after).markdown().splitlines()
    assert len(plain) == 5 and "control" not in plain[0]


def test_report(processor, tmp_path):
    """Two models of which each is right where the other is wrong: both rows of the figure have images."""
    models = {"before": tiny_vit(0), "after": tiny_vit(1)}
    sets = {"noise": masked_dataset(24)}
    accelerator = Accelerator(cpu=True)
    results = [evaluate_sets(model, sets, processor, accelerator) for model in models.values()]
    compared = Comparison(*results)
    write_report(tmp_path, compared, sets, processor, models, {"learning_rate": 1e-3})
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["rows"] == compared.rows() and written["settings"] == {"learning_rate": 1e-3}
    assert written["versions"]["torch"] == torch.__version__
    assert (tmp_path / "table.md").read_text() == compared.markdown() + "\n"
    assert (tmp_path / "before_after.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial"))
