"""One pass over a set, protocols, and the files of a run."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.utils.operations import recursively_apply
from PIL import Image
from transformers import ViTImageProcessor

from robust_vit_hf import eval_transform, make_image_processor, relevance_map
from robust_vit_hf.evaluation.accuracy import Accuracy, measure_accuracy, set_result
from robust_vit_hf.evaluation.other_backgrounds import DONORS, KINDS, Backgrounds, of_donor
from robust_vit_hf.evaluation.segment import Attribution
from robust_vit_hf.evaluation.session import measure, save_predictions
from robust_vit_hf.evaluation.sets import EvaluationSet, load_evaluation_set
from robust_vit_hf.results.run_results import read_predictions, scores_of

from ..helpers import layouts
from ..helpers.layouts import prepare
from ..helpers.sessions import evaluate_one, session_of
from ..helpers.tiny import GOLDFISH, IMAGE_SIZE, LABELS, STINGRAY, TENCH, masked_dataset, tiny_vit


MAPS = ("pixel_accuracy", "mean_iou", "mean_ap", "pointing_game", "energy", "auc")


def outputs(model, dataset):
    """Logits and maps of one forward pass over all images."""
    rows = dataset.with_transform(eval_transform(make_image_processor("paper", IMAGE_SIZE)))[:]
    return relevance_map(model, torch.stack(rows["pixel_values"])), torch.stack(rows["mask"])


def test_predictions_and_scores_by_hand(monkeypatch):
    """Of nine images, also where the last batch of two is filled up, as it is by several processes."""
    model, dataset = tiny_vit(), masked_dataset(9)
    filled_up = partial(recursively_apply, lambda of: torch.cat([of, of])[:2])
    monkeypatch.setattr("accelerate.Accelerator.gather", lambda _, values: filled_up(values))
    output, mask = outputs(model, dataset)
    images, result = evaluate_one(model, EvaluationSet.of(dataset), batch_size=2)
    assert result.predictions.tolist() == output.logits.argsort(dim=1, descending=True).tolist()
    assert images.classes.tolist() == [*LABELS, LABELS[0]]
    labels = torch.tensor(images.classes)
    assert result.scores["top1"] == (output.logits.argmax(1) == labels).double().mean().item()
    assert result.scores["nll"] == pytest.approx(torch.nn.functional.cross_entropy(output.logits, labels).item(), 1e-5)
    predicted = output.relevance > output.relevance.mean(dim=(1, 2, 3), keepdim=True)
    assert result.scores["pixel_accuracy"] == (predicted == (mask >= 0.5)).double().mean().item()
    assert images.correct("before").tolist() == (output.logits.argmax(1) == labels).tolist()


def test_the_size_of_a_batch_and_the_order_do_not_matter():
    model, dataset = tiny_vit(), masked_dataset(11)
    one, all_at_once = (evaluate_one(model, EvaluationSet.of(dataset), batch_size=size)[1] for size in (1, 64))
    assert (one.predictions == all_at_once.predictions).all()
    order = np.random.default_rng(0).permutation(11)
    _, shuffled = evaluate_one(model, EvaluationSet.of(dataset.select(order)), batch_size=4)
    assert (shuffled.predictions == one.predictions[order]).all()
    for other in (all_at_once, shuffled):
        for name, value in one.scores.items():
            # A pixel whose relevance is that of the threshold, or of another pixel, falls on either side of it.
            expected = value if isinstance(value, dict) else pytest.approx(value, abs=5e-3 if name in MAPS else 1e-5)
            assert other.scores[name] == expected, name


@pytest.mark.parametrize(
    "measurement",
    [Accuracy(), Attribution(("gae",)), Backgrounds()],
    ids=lambda one: type(one).__name__,
)
def test_a_model_in_training_mode_is_measured_without_its_dropout(measurement):
    model = tiny_vit(hidden_dropout_prob=0.5)
    session = session_of({"before": model.train()}, {"noise": EvaluationSet.of(masked_dataset(8))})
    plain = session_of({"before": tiny_vit()}, session.sets)
    one, other = (measure(of, measurement)["noise"]["before"] for of in (session, plain))
    pd.testing.assert_frame_equal(one, other)


def test_without_labels_or_masks():
    model, dataset = tiny_vit(), masked_dataset(5)
    images, unlabelled = evaluate_one(model, EvaluationSet.of(dataset.remove_columns("label")))
    assert "top1" not in unlabelled.scores and "ece" not in unlabelled.scores and "mean_iou" in unlabelled.scores
    assert not images.usable.any()
    _, fast = evaluate_one(model, EvaluationSet.of(dataset.remove_columns("mask")))
    assert "mean_iou" not in fast.scores and (fast.predictions == unlabelled.predictions).all()
    assert evaluate_one(model, EvaluationSet.of(dataset), relevance=False)[1].scores == fast.scores


def test_images_without_a_label_do_not_count():
    labels = [0, -1, 2, None, 1]
    dataset = masked_dataset(5).remove_columns(["label", "mask"]).add_column("label", labels)
    images, result = evaluate_one(tiny_vit(), EvaluationSet.of(dataset))
    assert result.scores["num_images"] == 3 and result.scores["num_excluded"] == 2
    assert result.scores["top1"] == images.correct("before")[images.usable].mean() == images.accuracy("before")
    assert images.classes.tolist() == [0, -1, 2, -1, 1]


def test_all_that_results_depend_on_is_in_the_digest_of_a_set():
    rows = EvaluationSet.of(masked_dataset(4))
    others = [{"class_subset": (1, 3)}, {"border": 2}, {"whole": True}, {"accepted": [[0]] * 4}]
    others += [{"dataset": rows.dataset.select([1, 0, 2, 3])}]
    digests = [rows.digest, *(replace(rows, **change).digest for change in others)]
    assert len({*digests}) == 6 and replace(rows, source="elsewhere").digest == rows.digest
    half = session_of({"before": tiny_vit()}, {}, accelerator=SimpleNamespace(mixed_precision="bf16"))
    assert half.inputs(half.sides["before"], rows)["precision"] == "bf16"  # beside the set


def test_a_class_subset_ranks_its_classes_alone():
    model, dataset = tiny_vit(), masked_dataset(8).filter(lambda row: row["label"] in (1, 3))
    _, result = evaluate_one(model, EvaluationSet(dataset.remove_columns("label"), [[1], [3], [1]], (1, 3)))
    assert set(result.predictions.flatten().tolist()) == {1, 3}
    output, _ = outputs(model, dataset)
    assert result.scores["nll"] == pytest.approx(
        torch.nn.functional.cross_entropy(output.logits[:, [1, 3]], torch.tensor([0, 1, 0])).item(), 1e-5
    )


def test_predictions_under_changes_are_of_the_class_subset():
    dataset = masked_dataset(8).filter(lambda row: row["label"] in (1, 3))
    rows = replace(EvaluationSet.of(dataset), class_subset=(1, 3))
    session = session_of({"before": tiny_vit()}, {"noise": rows}, passes=(4, 0))
    columns = measure(session, Backgrounds(attributes=("border",)))["noise"]["before"]
    others = {"image", "accepted", "label", "confirmed"} | {
        f"donor_{kind}{of_donor(number)}" for kind in KINDS for number in range(DONORS)
    }
    others |= {"object_share", "relevance_on_object"}
    for name in {*columns} - others:
        assert name.endswith("margin") or {*np.unique(columns[name])} <= {-1, 1, 3}, name


def test_attribution_squashes_images_as_their_processor_resizes():
    processor = ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, resample=Image.Resampling.NEAREST)
    model, dataset, seen = tiny_vit(), masked_dataset(4), []
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given["pixel_values"]), with_kwargs=True)
    session = session_of({"before": model}, {"noise": EvaluationSet.of(dataset)}, processor=processor)
    measure(session, Attribution(("rollout",)))
    assert torch.equal(seen[0], processor(dataset[:]["image"], return_tensors="pt")["pixel_values"])


def test_nan_logits_name_the_image():
    model = tiny_vit()
    dataset = masked_dataset(5).add_column("file_name", [f"{index}.jpg" for index in range(5)])

    def poison(module, args, output):
        output[(output.shape[0] - 1) :] = float("nan")  # the last image of a batch
        return output

    model.classifier.register_forward_hook(poison)
    for relevance in (False, True):
        with pytest.raises(ValueError, match=r"noise, before: the logits of `1\.jpg` are NaN or infinite"):
            evaluate_one(model, EvaluationSet.of(dataset), batch_size=2, relevance=relevance)


def test_predictions_are_read_again_and_kept_in_one_file(tmp_path, monkeypatch):
    dataset = masked_dataset(6).add_column("file_name", list("abcdef")).add_column("angle", [0.0, 90.0] * 3)
    dataset = dataset.add_column("area", ["indoors"] * 6)  # the user's, and no factor
    session = session_of({"before": tiny_vit()}, {"noise": EvaluationSet.of(dataset)}, tmp_path)
    measured = measure(session, Accuracy())
    result = set_result("noise", session.sets["noise"], measured["noise"])
    assert result.sides["before"].scores["per_group_top1"].keys() == {"0.0", "90.0"}
    assert result.factors["angle"].tolist() == [0, 90] * 3
    save_predictions(tmp_path / "predictions.parquet", session, measured)
    saved = read_predictions(tmp_path / "predictions.parquet")["noise"]["before"]
    assert saved["image"].tolist() == list("abcdef") and saved["accepted"].tolist() == [
        [label] for label in LABELS[:6]
    ]
    assert {*saved["digest"]} == {session.sets["noise"].digest}
    written = pd.read_parquet(tmp_path / "predictions.parquet")
    first = ["set", "model", "image", "condition", "label", "prediction", "probability"]
    assert [*written.columns[:7]] == first and {*written["condition"]} == {"original"}
    assert written["prediction"].tolist() == [best[0] for best in saved["predictions"]]
    assert scores_of(saved) == result.sides["before"].scores
    monkeypatch.setattr(Accuracy, "measure", lambda *_: pytest.fail("measured again"))
    again = measure_accuracy(session)["noise"].sides["before"]
    assert again.predictions.tolist() == result.sides["before"].predictions.tolist()
    assert again.scores == result.sides["before"].scores


def test_protocols_of_objectnet(tmp_path):
    root = layouts.objectnet(tmp_path / "objectnet-1.0")
    paper, native = (load_evaluation_set("objectnet", str(root), protocol) for protocol in ("paper", "native"))
    assert paper.accepted == [[423], [731]] and paper.class_subset is None  # folders chair and plunger
    assert native.accepted == [[423, 559, 765], [731]] and native.class_subset == (423, 559, 731, 765)
    assert load_evaluation_set("objectnet", str(root), "model").digest == native.digest != paper.digest
    assert paper.num_classes == native.num_classes == 1000
    # The border of two red pixels is seen under the one, and cut under the other.
    processor = make_image_processor("paper", IMAGE_SIZE)
    framed, cut = (
        eval_transform(processor, rows.border)({"image": [rows.dataset[0]["image"]]})["pixel_values"][0]
        for rows in (paper, native)
    )
    assert (paper.border, native.border) == (0, 2)
    cropped = native.dataset[0]["image"].crop((2, 2, 32, 26))
    assert torch.equal(cut, eval_transform(processor)({"image": [cropped]})["pixel_values"][0])
    assert not torch.equal(framed, cut)
    prepare("objectnet", [str(root)], tmp_path / "cropped", cropped=True)
    assert load_evaluation_set("objectnet", str(tmp_path / "cropped"), "native").border == 0  # not cut twice


def test_protocols_of_the_other_sets(tmp_path):
    restricted = {"imagenet-a": STINGRAY, "imagenet-r": GOLDFISH}  # to 200 classes, but under the paper's protocol
    for name, wnid in (restricted | {"imagenet-sketch": TENCH}).items():
        root = layouts.class_folders(tmp_path / name, {wnid: 2})
        for protocol in ("paper", "native", "model"):
            rows = load_evaluation_set(name, str(root), protocol)
            is_restricted = name in restricted and protocol != "paper"
            assert (rows.class_subset and len(rows.class_subset)) == (200 if is_restricted else None)
            assert rows.accepted[0][0] in (rows.class_subset or rows.accepted[0])
            assert "label" not in rows.dataset.column_names
