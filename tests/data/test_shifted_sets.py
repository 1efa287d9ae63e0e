"""ObjectNet, SI-Score, and the sets of background reliance that are later than the paper: labels, borders, factors, masks and groups."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from robust_vit_hf import load_image_set
from robust_vit_hf.data.known_sets import IMAGENET_9_VARIATIONS
from robust_vit_hf.data.layouts.official import CLASSES, read_mappings

from ..helpers import layouts
from ..helpers.commands import succeed
from ..helpers.layouts import both_ways, labels_and_names
from ..helpers.tiny import GOLDFISH, TENCH


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_objectnet_keeps_the_overlap_and_all_accepted_ids(tmp_path):
    root = layouts.objectnet(tmp_path / "objectnet-1.0")
    for source in (root, root / "images", tmp_path):
        rows = list(load_image_set("objectnet", source))
        assert [row["label"] for row in rows] == [[423, 559, 765], [731]]
        assert [row["file_name"].split("/")[-1] for row in rows] == ["chair_0.png", "plunger_0.png"]


def test_objectnet_border(tmp_path):
    root = layouts.objectnet(tmp_path)
    path = root / "images" / "plunger" / "plunger_0.png"
    layouts.save(Image.open(path), path, orientation=6)  # an image that decoding turns
    for streaming in (False, True):
        framed = [np.asarray(row["image"]) for row in load_image_set("objectnet", root, streaming=streaming)]
        cropped = list(load_image_set("objectnet", root, streaming=streaming, cropped=True))
        assert (framed[0][:2] == (255, 0, 0)).all() and (framed[0][:, -2:] == (255, 0, 0)).all()
        assert [row["image"].size for row in cropped] == [(30, 24), (24, 30)]
        for complete, row in zip(framed, cropped, strict=True):
            assert np.array_equal(np.asarray(row["image"]), complete[2:-2, 2:-2])


def test_objectnet_name_of_two_classes(tmp_path):
    root = layouts.objectnet(tmp_path)
    path = root / "mappings" / "objectnet_to_imagenet_1k.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Axe": "crane"}))
    with pytest.raises(ValueError, match="`crane` names 2 classes"):
        load_image_set("objectnet", root)
    path.write_text(json.dumps({"Axe": "hatchet"}))
    with pytest.raises(ValueError, match="`hatchet` names 0 classes"):
        read_mappings(root / "mappings")


def test_objectnet_without_mappings(tmp_path):
    root = layouts.objectnet(tmp_path / "objectnet-1.0")
    (root / "mappings").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"objectnet-1.0/mappings/folder_to_objectnet_label.json"):
        load_image_set("objectnet", root)
    assert len(load_image_set("objectnet", root, mappings=str(tmp_path / "elsewhere"))) == 2
    (tmp_path / "elsewhere" / "imagenet_to_label_2012_v2").unlink()
    with pytest.raises(FileNotFoundError, match="imagenet_to_label_2012_v2"):
        load_image_set("objectnet", root, mappings=str(tmp_path / "elsewhere"))


def test_si_score_passes_by_stray_csvs_and_reads_factors(tmp_path):
    # Ids 8, 9, 10, 11: as strings, "10" comes before "8".
    layouts.si_score(tmp_path / "area", {"kite": 3, "teddy bear": 1})
    rows = list(load_image_set("si-score-size", tmp_path))
    assert [(row["file_name"], row["label"]) for row in rows] == [
        ("area/kite/10.jpg", 21),  # the bird
        ("area/kite/8.jpg", 21),
        ("area/kite/9.jpg", 21),
        ("area/teddy bear/11.jpg", 850),
    ]
    assert [row["x"] for row in rows] == [1.0, 0.8, 0.9, 1.1]
    assert [row["angle"] for row in rows] == [201, 161, 181, 221]
    assert {(row["y"], row["area"]) for row in rows} == {(0.5, 0.2)}
    assert list(load_image_set("si-score-size", tmp_path / "area", streaming=True))[1]["x"] == 0.8


@pytest.mark.parametrize(
    "name, folder",
    [
        ("size", "area"),
        ("rotation", "rotation"),
        ("location", "location20_area02_min0pc"),
        ("location", "object_location"),
    ],
)
def test_si_score_folders(tmp_path, name, folder):
    layouts.si_score(tmp_path / folder, {"koala": 1})
    layouts.si_score(tmp_path / "other", {"wok": 1})
    rows = list(load_image_set(f"si-score-{name}", tmp_path))
    assert [row["label"] for row in rows] == [105]


def test_si_score_without_metadata(tmp_path, caplog):
    layouts.si_score(tmp_path, {"koala": 2}, metadata=False)
    rows = list(load_image_set("si-score-rotation", tmp_path))
    assert [row["angle"] for row in rows] == [None, None]
    assert "no metadata.csv next to the classes" in caplog.text


def test_si_score_images_that_the_metadata_lack_have_no_factors(tmp_path):
    """Not those of a neighbour: their ids are below the first, between two, and above the last of the metadata."""
    layouts.si_score(tmp_path, {"koala": 3})
    path = tmp_path / "metadata.csv"
    path.write_text("".join(line for line in path.open() if not line.startswith("9,")))
    for name in ("5.jpg", "77.jpg"):
        layouts.save(Image.new("RGB", (30, 24)), tmp_path / "koala" / name)
    rows = load_image_set("si-score-location", tmp_path)
    assert [(row["file_name"], row["x"], row["angle"]) for row in rows] == [
        ("koala/10.jpg", 1.0, 201),
        ("koala/5.jpg", None, None),
        ("koala/77.jpg", None, None),
        ("koala/8.jpg", 0.8, 161),
        ("koala/9.jpg", None, None),
    ]


DOG, VEHICLE = "00_dog", "02_wheeled vehicle"


def test_the_nine_classes_have_the_counts_of_the_official_mapping():
    """`in_to_in9.json` maps 370 of ImageNet's classes, each to one."""
    assert [len(ids) for ids in CLASSES.values()] == [116, 52, 42, 36, 35, 27, 26, 20, 16]
    counted = Counter(label for ids in CLASSES.values() for label in ids)
    assert len(counted) == 1000 - 630 and set(counted.values()) == {1}
    assert (
        207 in CLASSES[DOG] and 817 in CLASSES[VEHICLE] and 171 not in counted
    )  # golden retriever, sports car, whippet


def test_imagenet_9(tmp_path):
    root = layouts.imagenet_9(tmp_path / "bg_challenge", {DOG: 2, VEHICLE: 1}, IMAGENET_9_VARIATIONS)
    for source in (root, tmp_path, root / "mixed_rand"):
        rows = both_ways("imagenet-9-mixed_rand", source)
        assert [row["label"] for row in rows] == [CLASSES[DOG]] * 2 + [CLASSES[VEHICLE]]
        assert "mask" not in rows[0] and rows[0]["file_name"].endswith("val/00_dog/00_dog_0.JPEG")
    (root / "unpacked").mkdir()
    for source in (root, root / "original", root):
        rows = both_ways("imagenet-9-original", source)
        assert (np.asarray(rows[0]["mask"])[:12] == 255).all() and not np.asarray(rows[0]["mask"])[12:].any()
        if source != root:
            (root / "fg_mask").rename(root / "unpacked" / "fg_mask")  # of another archive


def test_imagenet_9_of_another_variation_and_without_masks(tmp_path):
    root = layouts.imagenet_9(tmp_path, {DOG: 1}, ("original", "mixed_rand"))
    with pytest.raises(ValueError, match=r"mixed_rand/val` holds `mixed_rand` of this set, not `no_fg`"):
        load_image_set("imagenet-9-no_fg", root / "mixed_rand")
    mask = root / "fg_mask" / "val" / DOG / f"{DOG}_0.npy"
    np.save(mask, np.array([{1: 2}], dtype=object), allow_pickle=True)  # which runs code when it is read
    with pytest.raises(ValueError, match=r"00_dog_0.npy` cannot be read as a mask: .*allow_pickle"):
        load_image_set("imagenet-9-original", root)
    (root / "fg_mask").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"fg_mask/val/00_dog/00_dog_0.npy` cannot be read as a mask: .*No such file"):
        load_image_set("imagenet-9-original", root)


def test_imagenet_d(tmp_path):
    ids = {"backpack": ["414"], "car": [817, 436]}
    root = layouts.imagenet_d(
        tmp_path / "ImageNet-D", ids, {"background": {"backpack": 1, "car": 2}, "texture": {"car": 1}}
    )
    for source in (root, tmp_path, root / "background"):
        rows = both_ways("imagenet-d-background", source)
        assert [row["label"] for row in rows] == [[414], [817, 436], [817, 436]]
        assert rows[0]["file_name"] == "background/backpack/backpack_0.png"
    (root / "imgnet_d2imgnet_id.txt").unlink()
    with pytest.raises(FileNotFoundError, match="imgnet_d2imgnet_id"):
        load_image_set("imagenet-d-texture", root)


def test_imagenet_d_from_the_hub(hub, tmp_path, monkeypatch):
    """Plain files: only those of the factor are downloaded. A folder here of that name is taken only if it is named."""
    root = layouts.imagenet_d(tmp_path, {"car": [817]}, {"background": {"car": 1}, "texture": {"car": 2}})
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hub.repos["datasets", "zcs15/ImageNet-D"] = files
    assert labels_and_names(both_ways("imagenet-d-texture")) == [
        ([817], "texture/car/car_0.png"),
        ([817], "texture/car/car_1.png"),
    ]
    assert len(load_image_set("imagenet-d-background", "zcs15/ImageNet-D")) == 1
    monkeypatch.chdir(tmp_path)
    layouts.imagenet_d(tmp_path / "zcs15" / "ImageNet-D", {"car": [817]}, {"texture": {"car": 3}})
    assert len(load_image_set("imagenet-d-texture")) == 2
    assert len(load_image_set("imagenet-d-texture", "zcs15/ImageNet-D")) == 3


def test_counteranimal(tmp_path):
    animals = tmp_path / "unpacked" / "data" / "LAION-final"  # as deep as folders of classes are looked for
    for number, part in enumerate(("common-snow", "counter-grass", "common-or-counter")):  # the last is of neither
        layouts.class_folders(animals / "9 ostrich", {part: number + 1})
        layouts.class_folders(animals / "296 ice bear", {part: 1})
    assert [row["label"] for row in both_ways("counteranimal-common", tmp_path)] == [296, 9]
    rows = both_ways("counteranimal-counter", tmp_path)
    assert labels_and_names(rows)[1:] == [
        (9, f"unpacked/data/LAION-final/9 ostrich/counter-grass/counter-grass_{index}.jpg") for index in (0, 1)
    ]
    (animals / "9 ostrich" / "counter-grass").rename(animals / "9 ostrich" / "grass")
    with pytest.raises(ValueError, match=r"9 ostrich` is not a class, .* only after `counter`"):
        load_image_set("counteranimal-counter", tmp_path)


def test_hard_imagenet_joins_masks_with_images(tmp_path):
    images = {TENCH: ["ILSVRC2012_val_00000007"], GOLDFISH: ["ILSVRC2012_val_00000009"]}
    root = layouts.hard_imagenet(tmp_path / "hardImageNet", tmp_path / "imagenet", images)
    rows = both_ways("hard-imagenet", root, imagenet=str(tmp_path / "imagenet"))
    assert labels_and_names(rows) == [
        (0, f"{TENCH}/ILSVRC2012_val_00000007.JPEG"),
        (1, f"{GOLDFISH}/ILSVRC2012_val_00000009.JPEG"),
    ]
    assert (np.asarray(rows[0]["mask"])[:12] == 255).all() and not np.asarray(rows[0]["mask"])[12:].any()
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000007.JPEG`, the image of .* is missing: .*--imagenet"):
        load_image_set("hard-imagenet", root)
    with pytest.raises(ValueError, match=r"one folder of masks .*`val` of hardImageNet.zip, but found none"):
        load_image_set("hard-imagenet", tmp_path / "imagenet", imagenet=str(tmp_path / "imagenet"))
    image = tmp_path / "imagenet" / "val" / TENCH / "ILSVRC2012_val_00000007.JPEG"
    for name in (f"validation/{TENCH}/{TENCH}_{image.name}", f"ILSVRC/Data/CLS-LOC/val/{image.name}", image.name):
        (tmp_path / "imagenet" / name).parent.mkdir(parents=True, exist_ok=True)
        image = image.rename(tmp_path / "imagenet" / name)
        found = load_image_set("hard-imagenet", root, imagenet=str(tmp_path / "imagenet"), streaming=True)
        assert labels_and_names(found)[0] == (0, f"{TENCH}/ILSVRC2012_val_00000007.JPEG")
    image.unlink()
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000007.JPEG`, the image of .* is missing"):
        list(load_image_set("hard-imagenet", root, imagenet=str(tmp_path / "imagenet"), streaming=True))


BIRDS = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)]  # y, place, split


def test_waterbirds(tmp_path):
    root = layouts.waterbirds(tmp_path, BIRDS)
    train = both_ways("waterbirds", root)
    assert [(row["label"], row["group"]) for row in train] == [(0, 0), (1, 3)] and "mask" not in train[0]
    masks = str(tmp_path / "segmentations")
    test = load_image_set("waterbirds", tmp_path, split="test", segmentations=masks)
    assert test.features["label"].names == ["landbird", "waterbird"]
    assert test.features["group"].names[2] == "waterbird on land"
    assert [test.features["group"].int2str(row["group"]) for row in test] == [
        "waterbird on land",
        "waterbird on water",
    ]
    mask = np.asarray(test[0]["mask"])
    assert (mask[12:] == 255).all() and not mask[:12].any()  # where half of the annotators agree
    next((tmp_path / "segmentations").rglob("*_0.png")).unlink()
    with pytest.raises(ValueError, match="Some_Bird_0"):
        load_image_set("waterbirds", root, segmentations=masks)


def test_waterbirds_prepared_and_loaded_by_split(tmp_path):
    root = layouts.waterbirds(tmp_path, BIRDS)
    options = ["--segmentations", tmp_path / "segmentations", "--output_dir", tmp_path / "prepared"]
    succeed("data", "prepare", "waterbirds", root, *options)
    for split, count in (("train", 2), ("validation", 1), ("test", 2)):
        prepared = load_image_set("waterbirds", tmp_path / "prepared", split=split)
        made = load_image_set("waterbirds", root, split=split, segmentations=str(tmp_path / "segmentations"))
        assert len(prepared) == count and prepared.features == made.features
        assert [row["group"] for row in prepared] == [row["group"] for row in made]
        assert (np.asarray(prepared[0]["mask"]) == np.asarray(made[0]["mask"])).all()


def test_waterbirds_with_other_metadata(tmp_path):
    root = layouts.waterbirds(tmp_path, BIRDS)
    metadata = root / "metadata.csv"
    text = metadata.read_text()
    metadata.write_text(text, encoding="utf-8-sig")  # a byte order mark is no part of the first column's name
    assert len(load_image_set("waterbirds", root)) == 2
    metadata.write_text(text.replace("place,", "where,", 1))
    with pytest.raises(ValueError, match=r"metadata.csv` has the columns"):
        load_image_set("waterbirds", root)


def test_tables_from_elsewhere(hub, tmp_path):
    """Whose numbers may be others, such as 0 to 44 for the animals: labels would be read as those of ImageNet."""
    layouts.image_table(tmp_path / "animals" / "test.parquet", label=[0, 44], file_name=["a", "b"])
    files = {"data/test-0.parquet": (tmp_path / "animals" / "test.parquet").read_bytes()}
    hub.repos["datasets", "someone/animals"] = files
    layouts.webdataset(tmp_path / "tars", [("a", layouts.picture(0), 3)])
    for name, source in (
        ("imagenet-1k", tmp_path / "animals"),
        ("imagenet-a", tmp_path / "animals"),
        ("counteranimal-common", tmp_path / "animals"),
        ("counteranimal-common", "someone/animals"),
        ("imagenet-9-only_fg", tmp_path / "animals"),
        ("counteranimal-common", tmp_path / "tars"),
        ("imagenet-9-only_fg", tmp_path / "tars"),
    ):
        with pytest.raises(ValueError, match=r"columns .*, which do not tell the classes of this set"):
            load_image_set(name, source)
    layouts.image_table(tmp_path / "birds" / "test.parquet", label=[0, 1], place=[0, 1])
    with pytest.raises(ValueError, match="do not tell the classes"):
        load_image_set("waterbirds", tmp_path / "birds", split="test")


def test_rows_of_waterbirds_on_the_hub_that_lack_a_value(hub, tmp_path):
    for columns, problem in (
        ({"label": [0, None], "place": [0, 1]}, "`1.png` has label None"),
        ({"label": [0, 1], "place": [0, None]}, "`1.png` has label 1 and place None, expected 0 or 1"),
    ):
        layouts.image_table(tmp_path / "test.parquet", **columns)
        files = {"data/test-0.parquet": (tmp_path / "test.parquet").read_bytes()}
        hub.repos["datasets", "grodino/waterbirds"] = files
        with pytest.raises(ValueError, match=problem):
            list(load_image_set("waterbirds", split="test", streaming=True))


def test_waterbirds_from_the_hub(hub):
    content = io.BytesIO()
    layouts.image_table(content, label=[1, 1], place=[0, 1], bird=["Gull", "Gull"])
    hub.repos["datasets", "grodino/waterbirds"] = {"data/test-00000-of-00001.parquet": content.getvalue()}
    read = both_ways("waterbirds", split="test")
    assert [(row["label"], row["group"], row["file_name"]) for row in read] == [(1, 2, "0.png"), (1, 3, "1.png")]
