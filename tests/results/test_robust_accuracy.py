"""The metric `robust_accuracy` against a slow implementation, cases by hand, and the evaluator."""

import evaluate
import numpy as np
import pytest
import torch

from ..helpers.metrics import add, in_batches, load, noise, streaming, within
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit


def slow_accuracy(logits, references, subset=None, groups=None):
    """Top-k hits by sorting (logit, id) pairs, and the means by hand."""
    hits = {}
    for row, accepted in enumerate(references):
        ranked = sorted(subset or range(logits.shape[1]), key=lambda id: (-logits[row, id], id))
        if accepted:
            hits[row] = [not set(accepted).isdisjoint(ranked[:k]) for k in (1, 5)]
    results = {"num_images": len(hits), "num_excluded": len(references) - len(hits)}
    keys = {"class": {row: references[row][0] for row in hits}}
    if groups is not None:
        keys["group"] = {row: groups[row] for row in hits}
    for column, k in enumerate((1, 5)):
        results[f"top{k}"] = sum(hit[column] for hit in hits.values()) / len(hits)
        for name, by_row in keys.items():
            per_key = {}
            for key in set(by_row.values()):
                rows = [row for row in hits if by_row[row] == key]
                per_key[key] = sum(hits[row][column] for row in rows) / len(rows)
            results[f"per_{name}_top{k}"] = per_key
            results[f"mean_per_{name}_top{k}"] = pytest.approx(sum(per_key.values()) / len(per_key), rel=1e-12)
    return results


@pytest.mark.parametrize("subset", [None, [9, 1, 4, 2, 11, 7, 0]])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_accuracy_against_a_slow_implementation(subset, dtype):
    logits, references = noise(120)
    logits = logits.astype(dtype)
    if subset:
        references = within(references, subset)
    groups = [str(row % 7) for row in range(len(logits))]
    columns = {"predictions": logits, "references": references, "groups": groups}
    result = load("robust_accuracy", "groups", class_subset=subset).compute(**columns)
    assert result == slow_accuracy(logits, references, subset, groups)
    assert in_batches(streaming("robust_accuracy", class_subset=subset), 50, **columns) == result


def test_ids_of_the_best_classes_are_as_good_as_logits():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(300, 10)).astype("float32"), rng.integers(0, 10, 300)
    result = load("robust_accuracy").compute(predictions=logits, references=labels)
    ids = torch.from_numpy(logits).topk(5).indices
    assert load("robust_accuracy").compute(predictions=ids, references=torch.from_numpy(labels)) == result


def test_of_equal_logits_the_lower_id_ranks_first():
    flat = np.zeros((7, 7), dtype="float32")
    result = load("robust_accuracy").compute(predictions=flat, references=range(7))
    assert (result["top1"], result["top5"]) == (1 / 7, 5 / 7)
    infinite = [[-np.inf, 1, -np.inf, np.inf, -np.inf, -np.inf, -np.inf]]
    for label, top5 in enumerate([1, 1, 1, 1, 1, 0, 0]):  # in the order 3, 1, 0, 2, 4, 5, 6
        assert load("robust_accuracy").compute(predictions=infinite, references=[label])["top5"] == top5


def test_accepted_ids_as_an_array_with_padding():
    lists = load("robust_accuracy").compute(predictions=[1, 2, 3], references=[[4, 1], [5], []])
    array = torch.tensor([[4, 1], [5, -1], [-1, -1]])
    assert load("robust_accuracy").compute(predictions=[1, 2, 3], references=array) == lists
    assert lists["top1"] == 0.5 and lists["per_class_top1"] == {4: 1.0, 5: 0.0} and lists["num_excluded"] == 1
    with pytest.raises(ValueError, match="zero usable images: 2 were added"):
        load("robust_accuracy").compute(predictions=[1, 2], references=[[], []])


def test_fewer_classes_than_five():
    logits = np.eye(9, dtype="float32")[[8, 3]]
    result = load("robust_accuracy", class_subset=[8, 3]).compute(predictions=logits, references=[8, 8])
    assert (result["top1"], result["top5"]) == (0.5, 1)


def test_there_is_no_top5_where_a_batch_ranks_fewer_classes():
    """A right class below its only id would count as wrong."""
    for metric in (load("robust_accuracy"), streaming("robust_accuracy")):
        add(metric, predictions=[[4, 1, 0, 2, 3], [3, 0, 1, 2, 4]], references=[4, 0])
        add(metric, predictions=[2, 0], references=[2, 1])
        result = metric.compute()
        assert result.keys() == {"top1", "mean_per_class_top1", "per_class_top1", "num_images", "num_excluded"}
        assert result["top1"] == 0.5 and result["per_class_top1"] == {0: 0, 1: 0, 2: 1, 4: 1}


@pytest.mark.parametrize("groups", [["a", "b", "a"], [0, 180, 0], [1, 2.5, 1], torch.tensor([0, 180, 0])])
def test_groups_in_batches(groups):
    """A group has the same name in any batch."""
    columns = {"predictions": [1, 1, 2], "references": [1, 2, 2], "groups": groups}
    complete = load("robust_accuracy", "groups").compute(**columns)
    assert list(complete["per_group_top1"].values()) == [1.0, 0.0] and complete["mean_per_group_top1"] == 0.5
    for metric in (load("robust_accuracy", "groups"), streaming("robust_accuracy")):
        assert in_batches(metric, 1, **columns) == complete
    metric = load("robust_accuracy", "groups")
    for row in range(3):
        metric.add(**{name[:-1] if name != "groups" else name: column[row] for name, column in columns.items()})
    assert metric.compute() == complete


def test_evaluator(processor, tmp_path):
    """`evaluate.evaluator` gives the predicted label alone, so that there is no top-5.

    It takes the model by name: for a pipeline, evaluate 0.4.6 asks for a class that transformers 5 does not have.
    """
    model, dataset = tiny_vit(), masked_dataset(6)
    result = evaluate.evaluator("image-classification").compute(
        str(save_pretrained(model, tmp_path, "paper")),
        dataset,
        metric=load("robust_accuracy"),
        label_mapping=model.config.label2id,
    )
    with torch.no_grad():
        predicted = model(**processor(dataset["image"][:], return_tensors="pt")).logits.argmax(dim=1).numpy()
    assert result["top1"] == np.mean(predicted == dataset["label"][:]) and "top5" not in result
