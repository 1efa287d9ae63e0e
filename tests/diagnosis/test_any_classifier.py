"""`diagnose` of models that are no plain ViT: from a folder, as an object, and as a function."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf

from robust_vit_hf import diagnose
from robust_vit_hf.models.added_classifiers import OwnClassifier

from ..helpers.tiny import tiny_vit


pytestmark = pytest.mark.usefixtures("undrawn")
NAMES = list("abcd")


def resnet(folder):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], id2label=dict(enumerate(NAMES))
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8).save_pretrained(folder)


def of_timm(folder, **pretrained):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=4)
    del model.pretrained_cfg["url"]
    save_for_hf(model, str(folder), model_config={"label_names": NAMES}, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    del config["model_args"]  # as on the Hub
    config["pretrained_cfg"] |= pretrained
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("write, given", [(resnet, {}), (of_timm, {"input_size": [3, 64, 64]})])
def test_a_folder_an_object_and_a_function_have_one_verdict(write, given, photographs, tmp_path):
    write(tmp_path / "model", **given)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    reports = {
        "folder": diagnose(str(tmp_path / "model"), photographs, output_dir=tmp_path / "folder"),
        "object": diagnose(model, photographs, processor=processor, output_dir=tmp_path / "object"),
        "function": diagnose(
            lambda images: model(images).logits.numpy(),
            photographs,
            classes=NAMES,
            transform=lambda image: processor([image], return_tensors="pt")["pixel_values"][0],
            output_dir=tmp_path / "function",
        ),
    }
    tables = {name: report.table.rows for name, report in reports.items()}
    *measured, (title, share) = tables["object"]
    assert tables["folder"] == tables["object"] and tables["function"] == measured
    assert title == "LayerCAM on the object / its share of the image" and 0 < float(share.split()[0]) < 10
    name = getattr(model.config, "architecture", type(model).__name__)
    left_out = f"Relevance is left out: `{name}` does not have one attention over one patch grid in each of its layers"
    left_out += ", so it has no relevance map. Maps show LayerCAM, which is not comparable."
    assert "of a function cannot be read, so it has no relevance map. No maps are shown." in str(reports["function"])
    assert left_out in str(reports["object"]) and left_out in (tmp_path / "folder" / "tables.md").read_text()
    found = {name: json.loads((tmp_path / name / "results.json").read_text())["diagnosis"] for name in reports}
    images = (tmp_path / "folder" / "images.csv").read_text().splitlines()[0]
    assert images.endswith("before_layercam_on_object") and "relevance" not in images
    measures = found["folder"]["before"]["measures"]
    assert "relevance_on_object" not in measures and measures.pop("layercam_on_object")["mean"] > 0
    found["object"]["before"]["measures"].pop("layercam_on_object")
    assert found["folder"] == found["object"] == found["function"] and 0 <= measures["original"]["mean"] <= 1


def test_an_object_is_compared_and_left_as_it_is(photographs, tmp_path):
    """A model in training, some of whose layers are frozen, beside another: the modes of all its modules are afterwards as before."""
    resnet(tmp_path / "model")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model").train()
    model.resnet.embedder.eval()
    modes, statistics = [module.training for module in model.modules()], dict(model.named_buffers())
    statistics = {name: value.clone() for name, value in statistics.items()}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    options = {"processor": processor, "compare": str(tmp_path / "model"), "output_dir": tmp_path / "out"}
    report = diagnose(model, photographs, **options)
    before, after = (report.diagnoses[side].measures["mixed_rand"] for side in ("before", "after"))
    assert before == after and "Before: " in report.verdict
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


def _pixels(image):
    return torch.tensor(np.array(image.resize((32, 32))) / 255).permute(2, 0, 1).float()


def test_a_function_never_gets_the_result_of_another(photographs, tmp_path):
    """Also where both return hard labels that agree on most photographs. Nothing but the photographs is given to it."""

    def labels(images, flipped=()):
        best = images.mean(dim=(1, 2, 3)).mul(40).long() % 4
        best[list(flipped)] = (best[list(flipped)] + 1) % 4
        return torch.eye(4)[best]

    given = GIVEN | {"output_dir": tmp_path}
    first, again, other = (
        diagnose(of, photographs, **given) for of in (labels, labels, lambda images: labels(images, [0]))
    )
    assert str(first) == str(again) != str(other)


def test_probabilities_of_a_function_are_no_logits():
    logits, images = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 9.0]]), torch.zeros(2, 3, 8, 8)
    for given, expected in ((logits, logits), (logits.softmax(dim=1), logits.log_softmax(dim=1))):
        torch.testing.assert_close(OwnClassifier(lambda _, given=given: given, NAMES[:3])(images).logits, expected)
    assert OwnClassifier(lambda _: torch.eye(3)[:2], NAMES[:3])(images).logits.isfinite().all()


def test_a_module_is_left_in_training(photographs, tmp_path):
    torch.manual_seed(0)
    layers = torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(3 * 32 * 32, 4)
    module = torch.nn.Sequential(*layers).train()

    report = diagnose(module, photographs, classes=NAMES, transform=_pixels, output_dir=tmp_path)
    assert "Maps show LayerCAM" in report.without_map[0] and 0 < float(report.table.rows[-1][1].split()[0]) < 10
    assert all(one.training for one in module.modules()) and layers[0].num_batches_tracked == 0


def _logits(images):
    return images.mean(dim=(2, 3)) @ torch.ones(3, 4)


GIVEN = {"classes": NAMES, "transform": _pixels}


@pytest.mark.parametrize(
    "model, given, error",
    [
        (lambda images: (_logits(images), images), GIVEN, "returned a tuple for 24 images"),
        (lambda images: _logits(images)[:1], GIVEN, r"shape \(1, 4\) for 24 images"),
        (lambda images: _logits(images - images.mean(dim=0)), GIVEN, r"another batch: call `eval\(\)`"),
        (tiny_vit(), {"transform": _pixels}, "transformers needs processor, but got transform"),
        ("resnet", {"transform": _pixels}, "`resnet` needs no parts, but got transform"),
    ],
)
def test_what_is_given_is_not_taken(model, given, error, photographs, tmp_path):
    with pytest.raises(ValueError, match=error):
        diagnose(model, photographs, output_dir=tmp_path, **given)
