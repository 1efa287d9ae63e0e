"""Results on public sets for the Hub's leaderboards."""

import pytest
import yaml

from robust_vit_hf.hub.eval_results import public_results, write_eval_results


@pytest.mark.parametrize(
    "name, source, expected",
    [
        ("imagenet-a", "barkermrl/imagenet-a", ("barkermrl/imagenet-a", "default")),
        ("imagenet-a", "clip-benchmark/wds_imagenet-a", ("clip-benchmark/wds_imagenet-a", "default")),
        ("imagenet-r", "imagenet-r", ("axiong/imagenet-r", "test")),  # without a source, the first copy
        ("imagenet-d-texture", "imagenet-d-texture", ("zcs15/ImageNet-D", "texture")),
        ("imagenet-v2", "imagenetv2-threshold0.7.tar.gz", None),  # another variant than the copies
        ("imagenet-a", "user/mine", None),
        ("si-score-size", "si-score-size", None),
        ("validation", "ILSVRC/imagenet-1k", None),  # a part of it, for all that is known
        ("report", "photographs", None),
    ],
)
def test_which_sets_are_public(name, source, expected):
    row = {"set": name, "num_images": 7500, "top1_before": 0.1, "top1_after": 0.123456}
    found = public_results("paper", [row], {name: source})
    assert [(entry.dataset_id, entry.task_id) for entry in found] == ([expected] if expected else [])
    assert [entry.value for entry in found] == [12.35] * len(found)
    assert all("7,500 images" in entry.notes and "protocol paper" in entry.notes for entry in found)
    assert public_results("paper", [row | {"top1_after": None}], {name: source}) == []


def test_files_of_earlier_results_are_removed(tmp_path):
    """And not those of the user."""
    row = {"set": "imagenet-r", "num_images": 30, "top1_before": 0.1, "top1_after": 0.5}
    first, second = ({"protocol": name, "rows": [row], "sources": {"imagenet-r": "imagenet-r"}} for name in "ab")
    write_eval_results(tmp_path, [first, second])
    own = tmp_path / ".eval_results" / "own.yaml"
    own.write_text("mine")
    write_eval_results(tmp_path, [second, first | {"rows": []}])
    kept = own.parent / "robust-vit-hf-b.yaml"
    assert {*own.parent.iterdir()} == {own, kept}
    assert [entry["value"] for entry in yaml.safe_load(kept.read_text())] == [50.0]
