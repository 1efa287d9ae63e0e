"""The page of `robust-vit app`, as programs call it and as a browser shows it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio
import numpy as np
import psutil
import pytest
import torch
import yaml
from gradio_client import Client, handle_file
from huggingface_hub import get_session
from PIL import Image
from transformers import pipeline

from robust_vit_hf.app.gallery import MeasuredSet, _images, load_samples, measured_set, own_samples, set_names
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.page import Handlers
from robust_vit_hf.app.pictures import compare_maps, read_image
from robust_vit_hf.app.server import OwnNames, newest_run, running, write_space
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, SHIFTED, compose
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.models.loading import load_model
from robust_vit_hf.results.run_results import SetResult, SideResult
from robust_vit_hf.utils.files import write_json

from ..helpers.architectures import WITHOUT_MAP
from ..helpers.attacks import png_header
from ..helpers.commands import python, wait_until
from ..helpers.layouts import save
from ..helpers.tiny import ROOT, masked_folder, masked_rows, named, save_pretrained, tiny_vit
from .conftest import open_pair


PREDICTED = -1
# Addresses that this process connects to. A hook stays until the process ends.
CONNECTED: list[str] = []
sys.addaudithook(lambda event, details: CONNECTED.append(str(details[1])) if event == "socket.connect" else None)


@pytest.fixture(scope="module")
def address(models, evaluated):
    gallery = {"results": evaluated.results, "dataset": evaluated.dataset}
    with running(AppOptions(model=models[0], compare=models[1], **gallery)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_maps_are_those_of_the_pipeline(models, picture):
    session = open_pair(*models, "paper")
    image, _ = read_image(str(picture))
    explained, _ = compare_maps(session, image, 2, "gae")
    for side, name in zip(("before", "after"), models, strict=True):
        explainer = pipeline("relevance-map", model=name, image_processor=session.sides[side].processor)
        answer = explainer(image, target=2, overlay=True)
        assert np.abs(np.asarray(explained[side].picture, int) - np.asarray(answer["overlay"], int)).max() <= 1
        assert explained[side].score == pytest.approx(answer["score"], abs=1e-6)
        assert session.classes[explained[side].top[0][0]] == explainer(image)["label"]


def test_the_mask_of_another_image_is_not_used(models, picture, tmp_path, monkeypatch):
    shown = {"digest": "of another", "mask": Image.new("L", (512, 512), 255)}
    handlers = Handlers(AppOptions(model=models[0], compare=models[1]))
    assert "| – | – |" in handlers.explain(str(picture), PREDICTED, "gae", shown)[-1]
    warnings = []  # of colours that nobody sees
    monkeypatch.setattr("robust_vit_hf.app.page.gr.Warning", warnings.append)
    Image.open(picture).convert("RGBA").save(tmp_path / "transparent.png")
    for path, count in ((picture, 0), (tmp_path / "transparent.png", 1)):
        handlers.explain(str(path), PREDICTED, "gae", None)
        assert len(warnings) == count


def test_repeated_names_of_classes_are_told_apart(picture, tmp_path):
    model = save_pretrained(tiny_vit(**named(["crane", "owl", "crane", "ape"])), tmp_path / "model")
    handlers = Handlers(AppOptions(model=str(model)))
    assert handlers.class_names == ["crane (0)", "owl", "crane (2)", "ape"]
    assert handlers.explain(str(picture), PREDICTED, "gae", None)[0].keys() == {*handlers.class_names}


def test_the_difference_is_green_where_relevance_grew_and_pink_where_it_fell(models):
    image, mask = masked_rows(1, size=(512, 512))[0]["image"], masked_rows(1, size=(512, 512))[0]["mask"]
    explained, difference = compare_maps(open_pair(*models, "paper"), image, 0, "gae", mask)
    assert all(0 < side.agreement[name] < 1 for name in ("mean_iou", "energy") for side in explained.values())
    assert not compare_maps(open_pair(models[0], None, "paper"), image, 0, "gae")[0]["before"].agreement
    # The grey image below the colours is the same in both maps, and in all channels of the difference.
    before, after = (np.asarray(explained[side].picture, int).sum(axis=2) for side in ("before", "after"))
    red, green, _ = np.moveaxis(np.asarray(difference, int), 2, 0)
    grew, fell = after - before > 100, after - before < -100
    assert grew.mean() > 0.1 and fell.mean() > 0.1
    assert (green > red)[grew].all() and (green < red)[fell].all()


def test_wrong_input_is_a_message_and_the_page_lives_on(client, picture, tmp_path):
    whole = picture.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "bomb.png").write_bytes(png_header(40_000, 40_000))
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")
    Image.new("F", (9, 9)).save(tmp_path / "float.tiff")
    expected = {
        "cut.png": "cannot be read as an image",
        "text.jpg": "cannot be read as an image: cannot identify image file",
        "bomb.png": "decompression bomb",
        "large.png": "10000×9000 pixels are more than Pillow's limit",
        "float.tiff": "mode F",
    }
    for name, message in expected.items():
        with pytest.raises(Exception, match=message) as caught:
            client.predict(handle_file(tmp_path / name), PREDICTED, "gae", api_name="/explain")
        assert str(tmp_path) not in str(caught.value) and "robust-vit-app" not in str(caught.value)
    for target, method in ((99, "gae"), (0, "gradcam")):
        with pytest.raises(Exception, match="not in the list of choices"):
            client.predict(handle_file(picture), target, method, api_name="/explain")
    client.predict(handle_file(picture), PREDICTED, "gae", api_name="/explain")


def test_a_turned_image_of_print(tmp_path):
    save(Image.new("CMYK", (64, 32)), tmp_path / "turned.jpg", orientation=6)  # a quarter turn
    turned, transparent = read_image(str(tmp_path / "turned.jpg"))
    assert turned.size == (32, 64) and turned.mode == "RGB" and not transparent


def test_it_listens_on_loopback_and_connects_to_nothing_else(address, client, picture):
    client.predict(handle_file(picture), PREDICTED, "gae", api_name="/explain")
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])
    hosts = [c.laddr.ip for c in psutil.Process().net_connections() if c.laddr.port == port and c.status == "LISTEN"]
    assert hosts == ["127.0.0.1"]
    assert CONNECTED and all(re.search(r"'127\.0\.0\.1'|'::1'|^/", host) for host in CONNECTED)


def test_under_another_name_nothing_is_answered(address, models):
    """A page elsewhere, whose name is made to mean this address (DNS rebinding), gets neither the page nor its files."""
    other = {"Host": "evil.example:7871", "Origin": "http://evil.example:7871"}
    for route in ("", "config", "gradio_api/info", "gradio_api/file=/etc/passwd"):
        response = get_session().get(f"{address}{route}", headers=other)
        assert response.status_code == 400 and response.text == "Invalid host header", route
    upload = {"url": f"{address}gradio_api/upload", "files": {"files": ("a.txt", b"text")}}
    for origin, status in (("https://evil.example", 400), ("null", 400), ("http://localhost:7860", 200), (None, 200)):
        response = get_session().post(**upload, headers={"Origin": origin} if origin else {})
        assert response.status_code == status, origin
    for own in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860"):
        assert get_session().get(f"{address}config", headers={"Host": own}).status_code == 200, own
    for name in ("192.168.1.5:7860", "0.0.0.0:7860", "127.0.0.1.evil.example", "", "["):
        assert get_session().get(f"{address}config", headers={"Host": name}).status_code == 400, name
    names = ["Proxy.example", "192.168.1.5", "[fd00::5]"]
    with running(AppOptions(model=models[0], compare=models[1], allowed_hosts=names)) as behind:
        for name in ("proxy.example:443", "192.168.1.5:443", "[fd00::5]:443"):
            assert get_session().get(f"{behind}config", headers={"Host": name}).status_code == 200, name
        assert get_session().get(f"{behind}config", headers=other).status_code == 400
        proxied = {"Host": "proxy.example", "Origin": "https://proxy.example"}
        assert get_session().get(f"{behind}config", headers=proxied).status_code == 200
        endpoints = get_session().get(f"{behind}gradio_api/info").json()["named_endpoints"]
        assert "/explain" in endpoints


@pytest.mark.parametrize(
    "server, name, answered",
    [
        ("192.168.1.5", "192.168.1.5:7860", True),
        ("192.168.1.5", "192.168.1.6:7860", False),
        ("fd00::5", "[fd00::5]:7860", True),
        (None, "192.168.1.5:7860", False),
    ],
)
def test_a_page_on_all_addresses_answers_under_the_one_that_was_connected_to(server, name, answered):
    asked = []

    async def page(scope, receive, send):
        asked.append(scope)

    async def send(message):
        assert message.get("status", 400) == 400

    scope = {"type": "http", "headers": [(b"host", name.encode())], "server": server and (server, 7860)}
    asyncio.run(OwnNames(page, ["localhost", "0.0.0.0"])(scope, None, send))
    assert bool(asked) is answered


def test_no_file_outside_its_own_is_served(address, client, models, picture):
    own = ROOT / "pyproject.toml", f"{models[0]}/config.json", "pyproject.toml"
    for path in ("/etc/passwd", *own, "../etc/passwd"):
        for route in ("gradio_api/file=", "file="):
            response = get_session().get(f"{address}{route}{path}")
            assert response.status_code in (403, 404) and "root:" not in response.text, path
    stolen = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match="passwd"):
        client.predict(stolen, PREDICTED, "gae", api_name="/explain")


def test_nothing_uploaded_stays(models, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with running(AppOptions(model=models[0], compare=models[1])) as address:
        client = Client(address, verbose=False, download_files=False)
        client.predict(handle_file(picture), PREDICTED, "gae", api_name="/explain")
        client.close()
        assert [path for path in tmp_path.glob("robust-vit-app-*/files/**/*") if path.name == picture.name]
    assert not list(tmp_path.glob("robust-vit-app-*"))


def test_gallery_of_an_evaluation(models, evaluated, client, monkeypatch):
    session = open_pair(*models, "paper")
    assert set_names(evaluated, session) == ["paper/validation"]
    measured = measured_set(evaluated, "paper/validation", session)
    monkeypatch.setattr("robust_vit_hf.app.page.NUM_SHOWN", 12)
    images, text = client.predict("paper/validation", "all", api_name="/gallery")
    assert len(images) == 12 and text.startswith("40 of 40 images. Top-1 ")
    # As ObjectNet, whose border the models do not see.
    framed = replace(measured, rows=replace(measured.rows, border=3))
    handlers = Handlers(replace(evaluated, model=models[0], compare=models[1]))
    monkeypatch.setattr(handlers, "measured", lambda name: framed)
    image, whole = handlers.choose_image("", [4], SimpleNamespace(index=0))[0], measured.rows.dataset[4]["image"]
    assert image.tobytes() == whole.crop((3, 3, whole.width - 3, whole.height - 3)).tobytes()


def test_the_most_changed_images_are_first():
    """By the places that the label moved, and then by how many of the five best classes were replaced."""
    after = np.array([[0, 1, 2, 3, 9], [1, 0, 2, 3, 4], [0, 1, 2, 8, 9], [1, 0, 2, 3, 9]])
    sides = {"before": SideResult(np.zeros(4, int), predictions=np.arange(5)[None].repeat(4, 0))}
    sides["after"] = SideResult(np.array([0, 1, 0, 1]), predictions=after)
    measured = MeasuredSet(EvaluationSet(None), SetResult("a", sides, np.zeros(4, int)))
    assert measured.order("all") == [3, 1, 2, 0] and measured.order("changed") == measured.order("broken") == [3, 1]


def test_results_of_others_are_refused(models, evaluated, tmp_path):
    session = open_pair(*models, "paper")
    with pytest.raises(ValueError, match="no results of these models"):
        measured_set(evaluated, "paper/validation", open_pair(models[0], models[0], "paper"))
    data = str(masked_folder(tmp_path / "data", train=40, validation=39))
    with pytest.raises(ValueError, match="no results of these models"):
        measured_set(AppOptions(results=evaluated.results, dataset=data), "paper/validation", session)
    with pytest.raises(ValueError, match="give them with `--dataset"):
        measured_set(AppOptions(results=evaluated.results), "paper/validation", session)
    with pytest.raises(ValueError, match="has no results of two models"):
        set_names(AppOptions(results=tmp_path), session)


def test_images_of_a_set_are_those_of_its_source(models, monkeypatch):
    monkeypatch.setattr("robust_vit_hf.app.gallery.load_evaluation_set", lambda *given: given)
    options = AppOptions(results="out", sets=["imagenet-a=folder", "imagenet-r"])
    session = open_pair(*models, "native")
    found = [_images(options, name, session, 9) for name in ("imagenet-a", "imagenet-r")]
    assert found == [("imagenet-a", "folder", "native"), ("imagenet-r", None, "native")]


def test_samples():
    for number, (sample, split) in enumerate(zip(load_samples(CLASS_NAMES), 2 * SHIFTED, strict=True)):
        rows = [compose(split, 8 * number + place) for place in range(40)]
        assert any(row["openly_licensed"] and row["image"].tobytes() == sample.image.tobytes() for row in rows)
    assert [sample.caption for sample in load_samples(("a", "b"))] == ["chelsea", "coffee", "motorcycle", "rocket"]


def test_the_newest_run_of_the_bundled_model(tmp_path):
    assert newest_run(tmp_path) is None
    for name, base in (("b", "emoji-shift"), ("a", "emoji-shift"), ("c", "vit-b")):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "run.json", {"finetuned_from": base, "registered": base})
    (tmp_path / "of a folder").mkdir()
    write_json(tmp_path / "of a folder" / "run.json", {"finetuned_from": "emoji-shift", "registered": None})
    assert newest_run(tmp_path) == str(tmp_path / "a")


@pytest.mark.release
def test_sets_of_the_benchmark_are_measured_once(datasets_cache, monkeypatch):
    monkeypatch.setattr("robust_vit_hf.app.gallery.IMAGES_PER_SET", 10)
    session = open_pair("emoji-shift", "emoji-shift", "paper")
    assert set_names(AppOptions(), session) == ["val", *SHIFTED]
    measured = measured_set(AppOptions(), "val", session)
    assert len(measured.order("all")) == 10 and "mask" in measured.rows.dataset.column_names
    # Nothing is measured again.
    monkeypatch.setattr("robust_vit_hf.evaluation.accuracy.Accuracy.measure", lambda *_: pytest.fail("measured again"))
    again = measured_set(AppOptions(), "val", session)
    predictions, repeated = (of.result.sides["after"].predictions for of in (measured, again))
    assert (predictions == repeated).all()


def test_samples_of_the_user(models, tmp_path):
    """One of each class first, the same in each start, with masks, and labels by name."""
    model = str(save_pretrained(tiny_vit(**named("dcba")), tmp_path / "model"))
    data = str(masked_folder(tmp_path / "data", train=4, validation=40))
    session = open_pair(model, None, "paper")
    samples, again = (own_samples(data, "validation", session) for _ in range(2))
    assert [one.image.tobytes() for one in samples] == [one.image.tobytes() for one in again]
    assert len(samples) == 12 and all(sum(one.caption == name for one in samples) == 3 for name in "abcd")
    assert all(one.mask.size == one.image.size for one in samples)
    other = str(save_pretrained(tiny_vit(**named("wxyz")), tmp_path / "other"))
    with pytest.raises(ValueError, match="validation"):
        own_samples(data, "validation", open_pair(other, None, "paper"))


def test_models_without_a_map(evaluated, picture, tmp_path):
    """The page says why it shows LayerCAM, and shows it with the predictions that the models give."""
    for seed, side in enumerate(("before", "after")):
        save_pretrained(WITHOUT_MAP["ResNet"].tiny(seed), tmp_path / side)
    models = {"model": str(tmp_path / "before"), "compare": str(tmp_path / "after")}
    with running(AppOptions(**models, dataset=evaluated.dataset)) as address:
        client = Client(address, verbose=False)
        shown = client.predict(handle_file(picture), 2, "gae", api_name="/explain")
        components = get_session().get(f"{address}config").json()["components"]
    _, after, maps, difference, measures = shown
    assert len(maps) == 2 and difference is not None and "LayerCAM on object" in measures
    image = eval_transform(load_processor(models["compare"], "model", None))({"image": [read_image(str(picture))[0]]})
    with torch.no_grad():
        scores = load_model(models["compare"])(image["pixel_values"][0][None]).logits[0].softmax(dim=0)
    assert after["label"] == f"LABEL_{scores.argmax()}" and f"| after | LABEL_2 | {scores[2]:.1%} |" in measures
    visible = {one["props"].get("elem_id"): one["props"]["visible"] for one in components if "visible" in one["props"]}
    assert not visible["method"] and visible["target"]
    texts = [one["props"].get("value") for one in components if one["type"] == "markdown"]
    assert any("so it has no relevance map. Maps show LayerCAM, which" in str(text) for text in texts)
    (slider,) = [one["props"]["label"] for one in components if one["props"].get("elem_id") == "maps"]
    assert slider == "LayerCAM: before | after"


def test_a_space(hub, tmp_path):
    def write(folder: str, before: str, protocol: str | None = None) -> str:
        write_space(AppOptions(export=tmp_path / folder, model=before, compare="user/after", protocol=protocol))
        return (tmp_path / folder / "app.py").read_text()

    write("space", "emoji-shift", "paper")
    _, front, text = (tmp_path / "space" / "README.md").read_text().split("---\n")
    metadata = yaml.safe_load(front)
    assert metadata["sdk"] == "gradio" and metadata["sdk_version"] == gradio.__version__
    assert metadata["app_file"] == "app.py" and metadata["models"] == ["user/after"] and "`user/after`" in text
    with pytest.raises(FileExistsError):
        write("space", "emoji-shift", "paper")
    with pytest.raises(ValueError, match="is not a Hub id"):
        write("local", "./model")
    hub.repos["models", "user/after"] = {"run.json": b'{"protocol": "native"}'}
    assert "protocol='native'" in write("of-the-run", "emoji-shift")
    hub.repos["models", "user/after"] = {"config.json": b"{}"}  # of no run
    assert "protocol='paper'" in write("registered", "vit-b")
    assert "protocol='model'" in write("other", "user/after")


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_serves_until_it_is_ended(models, picture, tmp_path):
    command = python("-m", "robust_vit_hf.cli", "app", "--model", models[0], "--compare", models[1])
    process = start(command, ROOT, os.environ | {"TMPDIR": str(tmp_path)})
    address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
    Client(address, verbose=False).predict(handle_file(picture), PREDICTED, "gae", api_name="/explain")
    assert list(tmp_path.glob("robust-vit-app-*"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=200) == 130
    assert not list(tmp_path.glob("robust-vit-app-*"))


@pytest.mark.slow
def test_a_space_runs_with_models_by_id(hub, models, diagnosed, picture, tmp_path):
    for name, folder in zip(("user/before", "user/after"), models, strict=True):
        hub.add("models", name, Path(folder))
    models = {"model": "user/before", "compare": "user/after", "protocol": "paper"}
    write_space(AppOptions(export=tmp_path / "space", diagnose=diagnosed, **models))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | hub.environment() | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port}
    process = start(python("app.py"), tmp_path / "space", environment)

    def listens() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", int(port))) == 0

    try:
        wait_until(listens, process)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        before = client.predict(handle_file(picture), PREDICTED, "gae", api_name="/explain")[0]
        assert before["label"].startswith("LABEL_")
        assert len(client.predict("all", 2, api_name="/conditions")[0]) == 7
    finally:
        process.kill()
        process.communicate()
