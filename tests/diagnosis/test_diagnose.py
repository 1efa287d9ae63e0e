"""`robust-vit diagnose`, from images to files."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

import robust_vit_hf
from robust_vit_hf import make_image_processor
from robust_vit_hf.data import background_edits, emoji_shift
from robust_vit_hf.data.background_edits import CONDITIONS, compose, draw_donors
from robust_vit_hf.data.balanced_splits import choose_images
from robust_vit_hf.data.find_images import find_images
from robust_vit_hf.data.transforms import denormalize, eval_transform, pixel_levels
from robust_vit_hf.diagnosis import diagnose as diagnosis
from robust_vit_hf.diagnosis.diagnose import load_images
from robust_vit_hf.diagnosis.example_strip import load_composed
from robust_vit_hf.diagnosis.options import DiagnoseOptions
from robust_vit_hf.diagnosis.verdict import Diagnosis
from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import measure
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.relevance.relevance_map import relevance_map
from robust_vit_hf.results.intervals import Interval
from robust_vit_hf.results.run_results import read_predictions

from ..helpers.commands import call, files_below, launch_two, succeed
from ..helpers.layouts import bright_square, save
from ..helpers.sessions import session_of
from ..helpers.tiny import FEATURES, IMAGE_SIZE, LETTERS, masked_dataset, masked_rows, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_pretrained(tiny_vit(**LETTERS), tmp_path_factory.mktemp("models") / "mine", "paper")


@pytest.fixture(scope="module")
def diagnosed(model, photographs, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("diagnosed") / "out"
    return folder, succeed("diagnose", "--model", model, "--dataset", photographs, "--output_dir", folder, "--html")


def columns_of(folder: Path, split: str = "validation", side: str = "before") -> dict:
    return read_predictions(folder / "predictions.parquet")[split][side].to_dict("list")


def test_predictions_are_those_of_the_composed_images(model, photographs, diagnosed):
    """Composed and classified once more, image by image."""
    found, rows = columns_of(diagnosed[0]), masked_dataset(24)
    written = pd.read_parquet(diagnosed[0] / "predictions.parquet")
    assert len(written) == 24 * len(CONDITIONS)
    only_bg = written[written["condition"] == "only_bg"]
    assert only_bg["prediction"].tolist() == found["only_bg"] and only_bg["label"].tolist() == found["label"]
    processor, network = make_image_processor("paper", IMAGE_SIZE), tiny_vit(**LETTERS)
    batch = rows.with_transform(eval_transform(processor))[:]
    images, masks = batch["pixel_values"], batch["mask"]
    same, other = draw_donors(rows["label"])
    assert found["donor_same"] == same.tolist() and found["donor_rand"] == other.tolist()
    for index, label in enumerate(rows["label"]):
        assert found["label"][index] == label and found["accepted"][index] == [label]
        assert found["donor_class"][index] == rows["label"][int(other[index])]
        donors = [(images[donor][None], masks[donor][None]) for donor in (same[index], other[index])]
        composed = compose(images[index][None], masks[index][None], *donors, pixel_levels(processor)[0])
        for name, image in composed.items():
            with torch.no_grad():
                assert found[name][index] == network(image).logits.argmax().item(), (index, name)
        relevance = relevance_map(network, images[index][None]).relevance
        inside = (relevance * masks[index]).sum() / relevance.sum()
        assert found["relevance_on_object"][index] == pytest.approx(inside.item(), abs=1e-4)
        assert found["object_share"][index] == pytest.approx(masks[index].mean().item(), abs=1e-6)


@pytest.mark.parametrize("changed", ["fill", "version"])
def test_changed_edits_are_not_answered_by_old_predictions(changed, model, photographs, tmp_path, monkeypatch):
    options = {"dataset": str(photographs), "output_dir": tmp_path / "out"}
    reports, measured = [robust_vit_hf.diagnose(str(model), **options)], []
    measure_backgrounds = Backgrounds.measure
    monkeypatch.setattr(Backgrounds, "measure", lambda *given: measured.append(1) or measure_backgrounds(*given))
    for _ in range(2):
        reports.append(robust_vit_hf.diagnose(str(model), **options))
        assert len(measured) == len(reports) - 2  # the first of these is of the same code
        if changed == "fill":
            monkeypatch.setattr(background_edits, "fill", lambda pixels, known: pixels * known)
        else:
            monkeypatch.setattr(robust_vit_hf, "__version__", "99.0")
    only_bg = [report.diagnoses["before"].columns["only_bg"].tolist() for report in reports]
    assert only_bg[0] == only_bg[1] and (only_bg[1] == only_bg[2]) == (changed == "version")


def test_images_in_all_conditions_are_kept(model, photographs, diagnosed):
    """With the predictions of the rows, and pictures as the model sees them."""
    examples, columns = load_composed(diagnosed[0] / "examples.parquet"), columns_of(diagnosed[0])
    assert len(examples) == 24

    def named(name: str) -> list[str | None]:
        return ["abcd"[best] if best >= 0 else None for best in columns[name]]

    expected = zip(named("label"), named("donor_class"), *map(named, CONDITIONS), strict=True)
    found = [(one.label, one.donor, *one.predicted["before"].values()) for one in examples]
    assert sorted(found, key=str) == sorted(expected, key=str)
    processor = make_image_processor("paper", IMAGE_SIZE)
    batch = masked_dataset(24).with_transform(eval_transform(processor))[:]
    images, masks = (torch.stack(batch[name]) for name in ("pixel_values", "mask"))
    given = [(images[donors], masks[donors]) for donors in map(torch.tensor, draw_donors(masked_dataset(24)["label"]))]
    composed = compose(images, masks, *given, pixel_levels(processor)[0])
    seen = {name: denormalize(rows, processor).mean(dim=1).numpy() * 255 for name, rows in composed.items()}
    for one in examples:
        # In grey, since WebP halves the resolution of colours.
        shown = {name: np.asarray(picture, float).mean(axis=2) for name, picture in one.pictures.items()}
        index = np.abs(seen["original"] - shown["original"]).mean(axis=(1, 2)).argmin()
        assert all(np.abs(seen[name][index] - grey).mean() < 15 for name, grey in shown.items())


def test_a_second_run_measures_nothing(model, photographs, diagnosed, monkeypatch):
    folder, printed = diagnosed
    kept = {name: content for name, content in files_below(folder).items() if not name.startswith(".")}
    monkeypatch.setattr(Backgrounds, "measure", lambda *_: pytest.fail("measured again"))
    again = succeed("diagnose", "--model", model, "--dataset", photographs, "--output_dir", folder, "--html")
    assert again == printed
    assert {name: content for name, content in files_below(folder).items() if not name.startswith(".")} == kept
    assert (folder / "report.html").is_file()
    (folder / "attributes.png").touch()
    succeed("diagnose", "--model", model, "--dataset", photographs, "--output_dir", folder)
    assert not any((folder / name).exists() for name in ("report.html", "attributes.png"))  # of other settings


@pytest.mark.parametrize("condition, status", [("decides", 3), (5, 3), (0, 3), (5.2, 0), ("partly", 2), (101, 2)])
def test_a_pipeline_gets_one_object_and_an_exit_status(condition, status, model, photographs, diagnosed, monkeypatch):
    """Whatever a library prints. The verdict and the lower bound of the gap are set."""
    measures, gap = Diagnosis.measures.func, {"bg_gap": Interval(0.5, 0.051, 1.0)}
    monkeypatch.setattr(Diagnosis, "verdict", "decides" if condition == "decides" else "partly")
    monkeypatch.setattr(Diagnosis, "measures", property(lambda self: measures(self) | gap))
    monkeypatch.setattr(diagnosis, "choose_images", lambda rows, _: sys.stdout.write("of a library") and rows)
    options = ["--model", model, "--dataset", photographs, "--output_dir", diagnosed[0], "--fail_if", condition]
    completed = call("diagnose", *options, "--json")
    assert completed.status == status
    if status == 2:
        assert "`fail_if` to be `decides` or a" in completed.error or "from 0 to 100, but got 101" in completed.error
        return
    written = (diagnosed[0] / "results.json").read_text()
    printed, results = (json.loads(text, parse_constant=pytest.fail) for text in (completed.out, written))
    assert completed.out.count("\n") == 1 and "of a library" in completed.err
    assert printed == {name: results[name] for name in printed} and len(printed) == 5
    assert printed["diagnosis"]["before"]["measures"]["bg_gap"] == {"mean": 0.5, "low": 0.051, "high": 1.0}


def test_masks_are_made_where_there_are_none(model, tmp_path, caplog):
    """By DINOv2-S: kept with a contact sheet, and with columns that only a later start may need."""
    rows = [{"image": bright_square(index), "label": index % 4, "site": "ab"[index // 4]} for index in range(8)]
    rows[1]["image"] = Image.new("RGB", (2000, 1))  # too narrow to be enlarged
    features = datasets.Features(
        {"image": datasets.Image(), "label": FEATURES["label"], "site": datasets.Value("string")}
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "photos" / "validation-00000.parquet")
    options = ["--model", model, "--dataset", tmp_path / "photos", "--output_dir", tmp_path / "out"]
    printed = succeed("diagnose", *options)
    masks = tmp_path / "out" / "masks"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["masks"] == "made by dinov2" and results["num_images"] + results["num_rejected"] == 8
    assert results["num_rejected"] >= 1 and "empty or full. `left_out.csv` has names and reasons." in printed
    assert "\nvalidation,row 1," in (tmp_path / "out" / "left_out.csv").read_text()
    assert (masks / "contact_sheet_train.png").is_file()
    assert "annotations_creators: machine-generated" in (masks / "README.md").read_text()
    succeed("diagnose", *options)
    assert "Masks of `validation` are not made again" in caplog.text
    # Masks of these images are not those of others, or of fewer.
    refused = call("diagnose", *options, "--num_images", 6).error
    assert "differ in: images of `train`" in refused


@pytest.mark.parametrize("masks", ["own", "made"])
def test_a_panorama_keeps_its_size_and_its_object(masks, model, tmp_path):
    """Ten times as wide as high. Of the square in the middle, which the model sees, each object covers another share."""
    for index, left in enumerate(range(380, 540, 20)):
        pixels = np.random.default_rng(index).integers(0, 60, (100, 1000), np.uint8)
        pixels[5:95, left : left + 90] = 255
        image, mask = Image.fromarray(pixels).convert("RGB"), Image.fromarray(pixels // 255 * 255)
        for kind, picture in {"image": image, "mask": mask}.items():
            save(picture, tmp_path / kind / "validation" / "abcd"[index % 4] / f"{index}.png")
    options = ["--masks", tmp_path / "mask"] if masks == "own" else []
    succeed("diagnose", "--model", model, "--dataset", tmp_path / "image", "--output_dir", tmp_path / "out", *options)
    columns, side = columns_of(tmp_path / "out"), 100 * 32 / 36  # of what the model sees, in pixels of the image
    lefts = 380 + 20 * np.array([int(Path(name).stem) for name in columns["image"]])
    seen = (np.minimum(lefts + 90, 500 + side / 2) - np.maximum(lefts, 500 - side / 2)) / side
    assert len(seen) == 8 and columns["object_share"] == pytest.approx(seen, abs=0.05 if masks == "own" else 0.15)
    if masks == "made":
        made = find_images(str(tmp_path / "out" / "masks"), "train").rows
        assert {(row["image"].size, row["mask"].size) for row in made} == {((1000, 100), (1000, 100))}


def test_masks_of_a_folder_are_found_by_name(model, tmp_path):
    """Pictures beside the images, with other suffixes; an image without a mask is left out."""
    for index, row in enumerate(masked_rows(9)):
        name = f"{'abcd'[row['label']]}/{index}"
        for kind, suffix in {"image": "jpg", "mask": "png"}.items():
            if index < 8 or kind == "image":
                save(row[kind], tmp_path / f"{kind}s" / "validation" / f"{name}.{suffix}")
    options = ["--model", model, "--dataset", tmp_path / "images", "--masks", tmp_path / "masks"]
    succeed("diagnose", *options, "--output_dir", tmp_path / "out")
    told = "Left out without a mask in `masks`: 1 of 9 images."
    assert told in (tmp_path / "out" / "tables.md").read_text()
    listed = (tmp_path / "out" / "left_out.csv").read_text()
    assert listed == "split,file,reason\nvalidation,c/8.jpg,without a mask\n"
    shares = columns_of(tmp_path / "out")["object_share"]
    assert len(shares) == 8 and shares[0] == pytest.approx(13**2 / 40**2, abs=0.06)
    # The output of `robust-vit masks` gives its masks and doubts only: images and labels are those of the data set.
    given = find_images(str(tmp_path / "images"), "validation", masks=str(tmp_path / "masks")).rows
    packed = given.select(range(7, 1, -1)).add_column("doubt", ["small", *5 * [None]])
    others = packed.map(lambda row: {"image": row["mask"], "label": 0}, load_from_cache_file=False)
    others.to_parquet(tmp_path / "packed" / "validation-00000.parquet")
    read = find_images(str(tmp_path / "images"), "validation", masks=str(tmp_path / "packed")).rows
    assert read["file_name"] == given["file_name"][2:8] and read["label"] == given["label"][2:8]
    assert [row["image"] for row in read] == [row["image"] for row in given.select(range(2, 8))]
    assert [row["mask"] for row in read] == [row["mask"] for row in given.select(range(2, 8))]
    assert read["doubt"] == [*5 * [None], "small"]
    with pytest.raises(FileNotFoundError, match=r"no file or folder `.*none`"):
        find_images(str(tmp_path / "none"), "validation", masks=str(tmp_path / "packed"))


def test_copies_do_not_narrow_an_interval(model, tmp_path):
    measures = []
    for place, count in (("once", 1), ("often", 4)):
        for index, row in enumerate(masked_rows(8)):
            for copy in range(count):
                for column in ("image", "mask"):
                    name = f"{'abcd'[row['label']]}/{index}{'x' * copy}.png"
                    save(row[column], tmp_path / place / column / "validation" / name)
        folders = ["--dataset", tmp_path / place / "image", "--masks", tmp_path / place / "mask"]
        printed = succeed("diagnose", "--model", model, *folders, "--output_dir", tmp_path / place / "out")
        diagnosed = json.loads((tmp_path / place / "out" / "results.json").read_text())["diagnosis"]["before"]
        measures.append(diagnosed["measures"])
    assert "Left out as copies, which count once: 24 of 32 images. `left_out.csv` has names and reasons." in printed
    assert (tmp_path / "often" / "out" / "left_out.csv").read_text().count("\nvalidation,") == 24
    assert measures[0] == measures[1] and measures[0]["bg_gap"]["low"] < measures[0]["bg_gap"]["high"]


def test_images_that_must_not_be_published_are_no_examples(model, tmp_path, monkeypatch):
    monkeypatch.setattr("robust_vit_hf.diagnosis.diagnose.taken_rows", lambda _: [*range(8)])  # all are taken
    rows = masked_dataset(8).add_column("openly_licensed", [False] * 4 + [True] * 4)
    rows.to_parquet(tmp_path / "data" / "validation-00000.parquet")
    report = robust_vit_hf.diagnose(str(model), str(tmp_path / "data"), output_dir=tmp_path / "out")
    assert len(report.examples) == len(report.taken) == 4


def test_the_choice_is_balanced_and_grows():
    labels = [0] * 50 + [1] * 5 + [2] * 50 + [-1] * 3
    rows = datasets.Dataset.from_dict({"label": labels, "row": list(range(108))})
    few, more = choose_images(rows, 9), choose_images(rows, 30)
    assert [[*few["label"]].count(label) for label in range(3)] == [3, 3, 3]
    assert [[*more["label"]].count(label) for label in range(3)] == [13, 5, 12]
    assert {*few["row"]} < {*more["row"]} and [*more["row"]] == sorted(more["row"])
    assert len(choose_images(rows, 1000)) == 105
    pairs = [choose_images(rows, 4, seed)["label"][:] for seed in range(9)]  # of two classes, which the seed draws
    assert {tuple(of.count(label) for label in range(3)) for of in pairs} == {(0, 2, 2), (2, 0, 2), (2, 2, 0)}
    assert len({*choose_images(rows, 3)["label"]}) == 2 and len(choose_images(rows, 1)) == 1


@pytest.mark.parametrize("num_images, loaded", [(3, 8), (9, 9)])
def test_at_least_two_images_of_each_class_of_a_benchmark(num_images, loaded, monkeypatch):
    monkeypatch.setattr(emoji_shift, "CLASS_NAMES", tuple("abcd"))
    monkeypatch.setattr(emoji_shift, "load_evaluation_sets", lambda count: {"val": masked_dataset(count)})
    options = DiagnoseOptions(model="any", dataset="emoji-shift", num_images=num_images, output_dir="out")
    images = load_images(options, session_of({"before": tiny_vit()}, {}))
    assert images.name == "val" and len(images.rows) == loaded


def test_batches_and_other_models_do_not_change_rows():
    """A class of one image has no `mixed_same`; a model of other statistics has another black."""
    rows = EvaluationSet.of(masked_dataset(13).select([0, 1, 2, 4, 5, 8]))
    session = session_of({"before": tiny_vit(**LETTERS)}, {"few": rows})
    sessions = [replace(session, passes=(size, 0)) for size in (1, 6)]
    one, all_ = (measure(of_size, Backgrounds())["few"]["before"] for of_size in sessions)
    for name in CONDITIONS:
        assert one[name].tolist() == all_[name].tolist()
    assert one["mixed_same"].tolist().count(-1) == 1 and -1 not in one["mixed_rand"]
    black, _ = pixel_levels(make_image_processor("native", 32, make_image_processor("paper", 32)))
    torch.testing.assert_close(black, torch.full((3,), -1.0))
    padding = ViTImageProcessor(do_resize=False, do_center_crop=True, crop_size={"height": 176, "width": 176})
    black, white = pixel_levels(padding)
    assert (white > black).all()  # its edges are black


def test_a_copy_is_no_donor():
    """Of the same class in `mixed_same`, and of another in `mixed_rand`; other images are measured as before."""
    rows = masked_dataset(4).select([0, 1, 0, 1]).remove_columns("label").add_column("label", [0, 1, 0, 2])
    session, other = session_of({"before": tiny_vit()}, {"few": EvaluationSet.of(rows)}), draw_donors(rows["label"])[1]
    columns = measure(session, Backgrounds(attributes=("border",)))["few"]["before"]
    for edit in ("mixed", "border"):
        assert columns[f"{edit}_same"].tolist() == [-1] * 4
        assert ((columns[f"{edit}_rand"] == -1) == (other % 2 == np.arange(4) % 2)).all()


def test_nan_logits_of_a_later_batch_name_the_image():
    """On another background: the image as it is has none."""
    model, passes = tiny_vit(**LETTERS), []

    def poison(module, args, output):
        passes.append(output)
        if len(passes) == 30:  # the third batch
            output[1] = float("nan")
        return output

    rows = EvaluationSet.of(masked_dataset(24).add_column("file_name", [f"{index}.jpg" for index in range(24)]))
    session = session_of({"before": model}, {"noise": rows}, passes=(2, 0))
    model.classifier.register_forward_hook(poison)
    with pytest.raises(ValueError, match=r"noise: the logits of `5\.jpg` are NaN or infinite"):
        Backgrounds(relevance=False).measure(session.sides["before"], rows, session, "noise")


@pytest.mark.release
def test_two_processes_equal_one(model, photographs, diagnosed, tmp_path):
    options = ["diagnose", "--model", model, "--dataset", photographs, "--output_dir", tmp_path, "--batch_size", 5]
    completed = launch_two("-m", "robust_vit_hf.cli", *options)
    assert completed.status == 0, completed.err
    assert completed.out.count("measure | before") == 1
    one, two = columns_of(diagnosed[0]), columns_of(tmp_path)
    assert all(one[name] == two[name] for name in one if name not in ("object_share", "relevance_on_object"))
