"""`robust-vit improve`, from images to a model folder."""

import html
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from robust_vit_hf.evaluation.accuracy import worse_classes
from robust_vit_hf.hub.upload import model_files
from robust_vit_hf.improvement.candidates import FIT_PENALTIES, INTERPOLATION_WEIGHTS
from robust_vit_hf.improvement.choice import OUTCOMES, cross_validated, resolution
from robust_vit_hf.improvement.improve import _estimate
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.models.last_layer import NoLastLayer
from robust_vit_hf.models.loading import weights_digest
from robust_vit_hf.results.run_results import SetResult, SideResult, read_predictions
from robust_vit_hf.training.trainer import RobustViTTrainer

from ..helpers.commands import call, files_below, kill_when, launch, succeed
from ..helpers.layouts import save
from ..helpers.sessions import session_of
from ..helpers.tiny import masked_dataset, tiny_vit
from .conftest import OBJECT, SEED, options_of, with_masks


pytestmark = pytest.mark.usefixtures("better", "datasets_cache", "undrawn")


@pytest.fixture(scope="module")
def improved(inputs, better, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("improved") / "better"
    return folder, succeed("improve", *options_of(inputs, folder))


def test_the_folder_is_a_model_with_its_evidence(inputs, improved):
    folder, printed = improved
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["verdict"] in printed and verdict["outcome"] in OUTCOMES
    model = AutoModelForImageClassification.from_pretrained(folder)
    run = json.loads((folder / "run.json").read_text())
    assert weights_digest(model) == run["weights"] and run["protocol"] == "model"
    assert run["training"].get("seed") == str(SEED) or "method" not in run["training"]
    saved, own = (AutoImageProcessor.from_pretrained(place).to_dict() for place in (folder, inputs / "model"))
    assert saved == own
    results = json.loads((folder / "results.json").read_text())
    assert results["weights"]["after"] == run["weights"]
    assert {"ece_before", "ece_after", "top1_before", "top1_after"} <= results["rows"][0].keys()
    card = (folder / "README.md").read_text()
    assert "| validation " in card and verdict["verdict"].partition(":")[0] in card
    assert "The model was chosen by these images" in card
    page = (folder / "report.html").read_text()
    main = page.partition("<main>")[2]
    order = ("Top-1 on the validation images", "Top-1 of all candidates", "Objects on other backgrounds", "ECE before")
    places = [main.index(text) for text in order]
    assert places == sorted(places) and "layer fitted" not in main
    assert len(printed.splitlines()) <= 25 and printed.count("| usual backgrounds |") == 1
    assert "candidates" not in printed.replace("candidates.md", "") and "ECE before" not in printed
    assert (folder / "report.html").is_file() and (folder / "diagnosis" / "strip.png").is_file()
    (trained,) = (folder / "cache").glob("finetuned-*[!k]")
    assert (trained / "model.safetensors").is_file() and not any(trained.glob("checkpoint-*"))
    table, name = (folder / "candidates.md").read_text(), "finetuned by swap from the new layer, learning rate 0.003"
    assert table.count(f"| {name}, 30 steps |") == len(INTERPOLATION_WEIGHTS) and "| original |" in table
    assert table.count("| layer fitted to the ") == 2 * len(FIT_PENALTIES) * len(INTERPOLATION_WEIGHTS)
    assert table.count("| chosen |") == 1


@pytest.fixture(scope="module")
def quick(inputs, better, tmp_path_factory) -> Path:
    """Without a training, in a folder where one was chosen before."""
    folder = tmp_path_factory.mktemp("improved") / "better"
    folder.mkdir()
    (folder / "interpolation.json").write_text("{}")
    options = options_of(inputs, folder)[:-1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RobustViTTrainer, "train", lambda *_, **__: pytest.fail("trained"))
        succeed("improve", *options, "quick")
    return folder


@torch.no_grad()
def check_predictions(folder: Path, inputs: Path) -> None:
    """Those of plain transformers for the validation images are those of the report, image by image."""
    rows = read_predictions(folder / "diagnosis" / "predictions.parquet")["validation"]["after"]
    model, processor = (of.from_pretrained(folder) for of in (AutoModelForImageClassification, AutoImageProcessor))
    images = [Image.open(path) for path in sorted((inputs / "photos" / "validation").rglob("*.jpg"))]
    predicted = model(**processor(images, return_tensors="pt")).logits.argmax(dim=1).tolist()
    assert predicted == rows["original"].tolist()
    results = json.loads((folder / "results.json").read_text())
    assert results["rows"][0]["top1_after"] == pytest.approx(np.mean(np.equal(predicted, rows["label"])))


def test_in_half_precision_the_model_is_the_one_of_the_report(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-1])
    succeed("improve", *options_of(inputs, folder := tmp_path / "better")[:-1], "quick", "--bf16")
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        check_predictions(folder, inputs)


def test_the_new_layer_is_all_that_changes(inputs, quick):
    """Plain transformers loads a model with another last layer, whose predictions are those of the verdict."""
    before, after = (load_file(place / "model.safetensors") for place in (inputs / "model", quick))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed == {"classifier.weight", "classifier.bias"}
    assert not (quick / "interpolation.json").exists()
    check_predictions(quick, inputs)
    card = (quick / "README.md").read_text()
    assert "all other weights are unchanged" in card and "Training took" not in card
    layer = json.loads((quick / "run.json").read_text())
    described = {"the labels of the images": "label", "predictions of the original": "output", "a linear map": "map"}
    assert all((text in card) is (name in layer["training"]["last layer"]) for text, name in described.items())
    assert layer["data"]["training_classes"] == [0, 1, 2, 3] and "24 images without labels" not in card
    measures = json.loads((quick / "diagnosis" / "results.json").read_text())["diagnosis"]
    gain = [measures[side]["measures"]["mixed_rand"]["mean"] for side in ("before", "after")]
    assert gain[1] > gain[0] + 0.2


def test_more_effort_goes_on_in_the_same_folder(inputs, quick, tmp_path):
    shutil.copytree(quick, tmp_path / "better")
    features = {path: path.stat().st_mtime_ns for path in (tmp_path / "better" / "cache").glob("features-*.float32")}
    options = options_of(inputs, tmp_path / "better")
    succeed("improve", *options)
    assert len(features) == 2 and all(path.stat().st_mtime_ns == at for path, at in features.items())
    assert "finetuned by swap from the new layer, learning rate" in (tmp_path / "better" / "candidates.md").read_text()


def test_pictures_are_the_backgrounds_of_new_layers(inputs, quick, tmp_path):
    picture = save(Image.new("RGB", (40, 40), "green"), tmp_path / "pictures" / "meadow.png")
    succeed("improve", *options_of(inputs, tmp_path / "out")[:-1], "quick", "--backgrounds", picture.parent)
    names = [{path.name for path in (of / "cache").glob("features-*.float32")} for of in (quick, tmp_path / "out")]
    (own,), (given,) = names[0] - names[1], names[1] - names[0]  # of the training images, and not of the others
    own, given = (
        np.fromfile(of / "cache" / name, np.float32).reshape(24, 14, -1)
        for of, name in ((quick, own), (tmp_path / "out", given))
    )
    assert np.array_equal(own[:, 0], given[:, 0])
    assert not np.isclose(own[:, 1], given[:, 1]).all(axis=1).any()


def test_another_share_chooses_anew_and_trains_nothing(inputs, improved, tmp_path, monkeypatch):
    shutil.copytree(improved[0], tmp_path / "better")
    monkeypatch.setattr(RobustViTTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    name, run = "interpolation weight of the finetuned weights", tmp_path / "better" / "run.json"
    number = -2 if json.loads(run.read_text())["training"].get(name) == "1" else -1  # which was not written
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[number])
    options = [*options_of(inputs, tmp_path / "better"), "--other_backgrounds", 0.5]
    assert "50 % other backgrounds" in succeed("improve", *options)
    assert json.loads((tmp_path / "better" / "verdict.json").read_text())["share"] == 0.5
    written = json.loads(run.read_text())["training"]
    assert written["method"] == "swap" and written[name] == f"{INTERPOLATION_WEIGHTS[number]:g}"


def test_the_model_is_the_one_that_is_chosen_now(inputs, quick, tmp_path, monkeypatch):
    """And not that of another share, also after a kill; without a choice, none is left."""
    folder, weights = shutil.copytree(quick, tmp_path / "better"), [load_file(quick / "model.safetensors")]
    options = [*options_of(inputs, folder)[:-1], "quick"]

    def improved_by(number: int) -> str:
        monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[number])
        return succeed("improve", *options)

    def killed(*_):
        raise KeyboardInterrupt

    improved_by(1)
    weights.append(load_file(folder / "model.safetensors"))
    with monkeypatch.context() as patched, pytest.raises(AssertionError, match="interrupted"):
        patched.setattr("robust_vit_hf.improvement.improve.measure_outcome", killed)
        improved_by(8)
    improved_by(1)
    weights.append(load_file(folder / "model.safetensors"))
    results = json.loads((folder / "results.json").read_text())
    assert results["weights"]["after"] == weights_digest(AutoModelForImageClassification.from_pretrained(folder))
    earlier, first, second = (of["classifier.weight"] for of in weights)
    assert torch.equal(first, second) and not torch.equal(first, earlier)
    of_model = ["model.safetensors", "config.json", "run.json", "results.json", "README.md"]
    of_model += ["diagnosis/before_after.png"]
    assert all((folder / name).is_file() for name in of_model)
    assert "no model, since yours is to be kept" in improved_by(0)
    assert json.loads((folder / "verdict.json").read_text())["outcome"] == "kept"
    assert not any((folder / name).exists() for name in of_model)
    assert all((folder / name).is_file() for name in ("candidates.md", "verdict.json", "report.html"))


def test_a_second_run_trains_nothing(inputs, improved, monkeypatch):
    folder, printed = improved
    kept = {name: content for name, content in files_below(folder).items() if not name.startswith(".")}
    monkeypatch.setattr(RobustViTTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    again = options_of(inputs, folder)
    again[3] = f"{inputs / 'photos'}/"  # the same images by another name
    assert printed.endswith(succeed("improve", *again))
    assert {name: content for name, content in files_below(folder).items() if not name.startswith(".")} == kept


def test_only_what_depends_on_a_change_is_made_anew(inputs, improved, tmp_path):
    folder = shutil.copytree(improved[0], tmp_path / "better")
    before = {path.name for path in (folder / "cache").iterdir() if path.suffix != ".lock"}
    succeed("improve", *options_of(inputs, folder), "--max_steps", 10)  # enough for the same images
    made = {path.name for path in (folder / "cache").iterdir() if path.suffix != ".lock"} - before
    kinds = [name.partition("-")[0] for name in made]
    assert kinds.count("finetuned") == 1 and "features" not in kinds


def test_photographs_and_paths_stay_here(inputs, improved):
    """Of what is uploaded, nothing shows an image or names a folder of this machine."""
    folder, _ = improved
    names = {*filter_repo_objects(files_below(folder), allow_patterns=model_files(folder))}
    files = {name: content for name, content in files_below(folder).items() if name in names}
    expected = {"README.md", "candidates.md", "config.json", "model.safetensors", "results.json"}
    expected |= {"interpolation.json"} if "method" in json.loads(files["run.json"])["training"] else set()
    expected |= {"preprocessor_config.json", "run.json", "tables.md", "verdict.json"}
    assert {*files} == expected
    assert not [name for name, content in files.items() if str(inputs).encode() in content]
    assert (folder / "diagnosis" / "before_after.png").is_file()
    assert "before_after.png" not in files["README.md"].decode()


def test_the_page_and_the_card_tell_what_stands_in_the_way(inputs, tmp_path, monkeypatch):
    """Images that are left out, and classes that got worse; also in a card that is made again."""
    measure, seeds = "robust_vit_hf.improvement.improve.cross_validated", []
    monkeypatch.setattr(measure, lambda *given: seeds.append(given[3:]) or cross_validated(*given))
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-2])
    options = with_masks(inputs, tmp_path, {".": OBJECT})
    options += ["--max_steps", 1, "--train_batch_size", 8, "--learning_rate", 0.1]
    for path in (tmp_path / "masks").glob("*/dot/1.png"):  # of which one is among the eight images of a step
        save(Image.new("L", Image.open(path).size), path)
    succeed("improve", *options)
    left_out = "split,file,reason\ntrain,dot/1.jpg,mask is empty\nvalidation,dot/1.jpg,mask is empty\n"
    assert seeds == [(SEED, False)] and (tmp_path / "out" / "left_out.csv").read_text() == left_out
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["training"]["interpolation weight of the finetuned weights"] == f"{INTERPOLATION_WEIGHTS[-2]:g}"
    assert run["training"]["method"] == "swap"
    layer = "layer fitted to the label, penalty 1e-06, interpolation weight 0.5"
    assert run["training"]["last layer at the start"] == layer
    assert run["weights"] == weights_digest(AutoModelForImageClassification.from_pretrained(tmp_path / "out"))
    notes = json.loads((tmp_path / "out" / "verdict.json").read_text())["notes"]
    for told in ("`train`: Left out: 1 of", "Left out: 1 of 32 images"):
        assert any(note.startswith(told) for note in notes), told
    (tmp_path / "out" / "README.md").unlink()
    succeed("card", tmp_path / "out")
    card, page = ((tmp_path / "out" / name).read_text() for name in ("README.md", "report.html"))
    for note in notes:
        assert f"\n\n{note}\n" in card and html.unescape(page).count(f"<p>{note}</p>") == 1


def test_a_model_without_a_last_layer_is_finetuned_alone(inputs, tmp_path, monkeypatch):
    def none(*_):
        raise NoLastLayer("The logits are not those of a linear layer.")

    monkeypatch.setattr("robust_vit_hf.improvement.candidates.LastLayer", none)
    options = [*with_masks(inputs, tmp_path, {".": OBJECT}), "--max_steps", 1]
    refused, done = call("improve", *options, "--effort", "quick"), call("improve", *options)
    assert "linear layer. Give --effort full" in refused.error and done.status == 0
    for result, other in ((refused, "full"), (done, "quick")):  # as both efforts say first
        told = f"to within about {resolution(32, 0.5):.1f} points"
        assert re.search(rf"min in all; --effort {other}: \d+ min\n  32 validation images .* {told}", result.err)
    notes = json.loads((tmp_path / "out" / "verdict.json").read_text())["notes"]
    assert any("not those of a linear layer. So the training is the only candidate, and" in note for note in notes)
    candidates = (tmp_path / "out" / "candidates.md").read_text()
    assert "| finetuned by swap, " in candidates and "layer" not in candidates


@pytest.mark.parametrize("effort, own, other", [("quick", 1160, "full: 9128"), ("full", 9128, "quick: 1160")])
def test_the_estimate_is_of_all_passes(effort, own, other, tmp_path, monkeypatch):
    """Of an image, and of a mask, a minute each."""
    clock = SimpleNamespace(perf_counter=iter(range(0, 10**6, 8 * 60)).__next__)
    monkeypatch.setattr("robust_vit_hf.improvement.improve.time", clock)
    monkeypatch.setattr("robust_vit_hf.improvement.improve._seconds_per_mask", lambda *_: 60)
    monkeypatch.setattr("robust_vit_hf.improvement.improve.FITTING", 0)
    sizes = {"train": 24, "validation": 16}
    images = {role: SimpleNamespace(rows=masked_dataset(size)) for role, size in sizes.items()}
    options = ImproveOptions(model="m", dataset="d", output_dir=tmp_path, masks="tokencut", effort=effort)
    session = session_of({"before": tiny_vit()}, {})
    # Two models on 21 composites, and features of validation and training images, 7 and 14 each. A training of 240
    # steps of 8 images, each as long as 4 passes, of which 3 interpolation weights are measured.
    composed = 2 * 21 * 16 + 7 * 16 + 14 * 24 + 24 + 16
    assert composed == 1160 and composed + 4 * 240 * 8 + 3 * 6 * 16 == 9128
    text = _estimate(session, images, options)
    assert text.startswith(f"about {own} min in all; --effort {other} min")
    # Without what an earlier start has computed: the masks of ten images, and the features, 10 + 7 * 16 + 14 * 24.
    images["train"].rows.select(range(10)).to_parquet(tmp_path / "masks" / "train" / "rejected" / "train-0-10.parquet")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features-1.float32").touch()
    assert _estimate(session, images, options).startswith(f"about {own - 458} min in all")


@pytest.mark.slow
def test_a_training_that_diverges_is_left_out(inputs, tmp_path):
    options = [*with_masks(inputs, tmp_path, {".": OBJECT}), "--max_steps", 3, "--learning_rate", 1e30]
    verdicts = []
    for _ in range(2):  # the second one trains nothing
        succeed("improve", *options)
        verdicts.append(json.loads((tmp_path / "out" / "verdict.json").read_text()))
        (note,) = (note for note in verdicts[-1]["notes"] if "diverged" in note)
        assert note.startswith("The training diverged at the learning rate 1e+30, and is left out")
    assert verdicts[0] == verdicts[1] and "1e+30" not in (tmp_path / "out" / "candidates.md").read_text()


def test_classes_that_certainly_got_worse():
    """Half of one class, one image of another, none of a third, and one of each of sixty classes with two images."""
    sizes = [40] * 3 + [2] * 60
    labels, place = np.repeat(np.arange(63), sizes), np.concatenate([*map(np.arange, sizes)])
    wrong = ((labels == 0) & (place < 20)) | ((labels != 2) & (place < 1))
    sides = {"before": SideResult(np.zeros(240, int)), "after": SideResult(np.where(wrong, 5, 0))}
    (worse,) = worse_classes(SetResult("test", sides, labels), list("aba") + ["few"] * 60)  # names may repeat
    assert worse.startswith("a -50.0 [-")


def test_no_class_got_worse_by_chance():
    """Of 40 simulated runs of ten classes without any change, at most three name one."""
    named = 0
    for seed in range(40):
        right = np.random.default_rng(seed).random((2, 1000)) < 0.9
        sides = {name: SideResult(np.where(of, 0, 5)) for name, of in zip(("before", "after"), right, strict=True)}
        named += bool(worse_classes(SetResult("test", sides, np.arange(1000) % 10), [*"abcdefghij"]))
    assert named <= 3
    for size, lost in ((6, 6), (40, 8)):  # images of one class: by chance with 1.6 and 0.4 %, and there are ten
        ranks = np.zeros((2, 10 * size), int)
        ranks[1, :lost] = 5
        few = {name: SideResult(of) for name, of in zip(("before", "after"), ranks, strict=True)}
        assert not worse_classes(SetResult("test", few, np.arange(10 * size) // size), [*"abcdefghij"])


def test_backgrounds_that_were_edited_are_others(inputs, tmp_path):
    picture = save(Image.new("RGB", (40, 40), "green"), tmp_path / "pictures" / "meadow.bmp")
    options = [*with_masks(inputs, tmp_path, {".": OBJECT}), "--backgrounds", picture.parent, "--max_steps", 1]
    for number, colour in enumerate(("green", "red"), 1):
        Image.new("RGB", (40, 40), colour).save(picture)
        succeed("improve", *options)
        assert len([*(tmp_path / "out" / "cache").glob("finetuned-*[!k]")]) == number


@pytest.mark.parametrize("outcome, place", [("better", "."), ("inconclusive", "candidates"), ("worse", "candidates")])
def test_only_a_better_model_is_where_it_is_loaded_from(outcome, place, inputs, quick, tmp_path, monkeypatch):
    folder = shutil.copytree(quick, tmp_path / "better")
    monkeypatch.setattr("robust_vit_hf.improvement.choice.Outcome.key", outcome)
    monkeypatch.setattr("robust_vit_hf.improvement.improve.choose", lambda candidates, *_: candidates[-1])
    printed = succeed("improve", *options_of(inputs, folder)[:-1], "quick")
    assert [path.parent for path in folder.rglob("model.safetensors") if "cache" not in path.parts] == [folder / place]
    assert (folder / place / "README.md").is_file() and (folder / "report.html").is_file()
    assert (f"{folder}/candidates --weight 1 --output_dir" in printed) == (outcome != "better")
    assert ("no model, since yours is to be kept" in printed) == (outcome != "better")


def test_a_signal_says_how_to_go_on(inputs, tmp_path, monkeypatch):
    seen = []
    in_doubt = "robust_vit_hf.improvement.improve.confirmed"
    monkeypatch.setattr(in_doubt, lambda rows: np.arange(len(rows)) % 3 > 0)

    def stopped(trainer, **_):
        seen.extend([trainer.args, len(trainer.train_dataset)])
        trainer.state.global_step, trainer.state.max_steps = 2, 3

    monkeypatch.setattr("robust_vit_hf.training.trainer.RobustViTTrainer.train", stopped)
    result = call("improve", *with_masks(inputs, tmp_path, {".": OBJECT}), "--max_steps", 3, "--bf16")
    assert result.status == 143 and "after step 2. Start the same command again" in result.err
    assert seen[0].bf16 and (seen[0].seed, seen[0].per_device_train_batch_size, seen[1]) == (SEED, 4, 8)


@pytest.mark.release
def test_killed_again_and_again(inputs, tmp_path):
    """Killed before the training is measured, and before the verdict."""
    options = {name: with_masks(inputs, tmp_path / name, {".": OBJECT}) for name in ("whole", "killed")}
    whole, killed = (tmp_path / name / "out" for name in options)
    # Both in processes of their own, since weights depend on the number of threads in their last bits.
    command = ["-m", "robust_vit_hf.cli", "improve"]
    completed = launch(*command, *options["whole"])
    assert completed.status == 0, completed.err[-3000:]
    for moment in ("cache/finetuned-*.partial/checkpoint-*", "cache/finetuned-*[!kl]/run.json"):
        assert not any(killed.glob(moment))
        kill_when(lambda moment=moment: any(killed.glob(moment)), *command, *options["killed"])
        assert not (killed / "verdict.json").exists()
    assert launch(*command, *options["killed"]).status == 0
    one, two = (json.loads((place / "verdict.json").read_text()) for place in (whole, killed))
    assert one == two
    folder = "" if one["outcome"] == "better" else "candidates"
    first, second = (load_file(place / folder / "model.safetensors") for place in (whole, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_several_processes_are_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    error = call("improve", *options_of(inputs, tmp_path / "better")).error
    assert "`improve` works in one process: leave out `accelerate launch`" in error
    assert not (tmp_path / "better" / "verdict.json").exists()
