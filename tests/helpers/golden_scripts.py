"""Records of scripts in `trainer/` and `experiments/`, on few images and small models, of what is pushed to the Hub, and of the page."""

import importlib.util
import json
import shutil
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import datasets
import gradio as gr
from huggingface_hub import HfApi, snapshot_download
from safetensors.numpy import load_file
from transformers import TrainingArguments

from experiments.makers import draw_backgrounds, export_photographs, train_emoji_bias
from robust_vit_hf import load_model
from robust_vit_hf.data.emoji_shift import load_split

from .families import FAMILIES
from .golden import Recorder
from .tiny import ROOT


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "trainer" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def push_folders(record: Recorder) -> None:
    """A finetuning, masks and an improvement, as others download them."""
    short = "--max_steps 2 --learning_rate 0.01 --eval_strategy no --save_strategy no --load_best_model_at_end false"
    logs = "--report_to tensorboard --use_cpu --disable_tqdm"
    record.run("run", f"train --model still --dataset masked {short} {logs}".split())
    record.run("of-coco", "masks coco --images photographs --annotations coco.json --per_class 2 --skip_bad".split())
    record.run("pushed", "push run user/golden --private --revision trial --commit_message First".split())
    record.run("pushed again", "push run golden-again".split())
    record.run("pushed masks", "push of-coco user/golden-masks --private --revision other".split())
    job = "vit photographs user/golden-better --private --output_dir better --masks masks --num_images 8"
    record.add("job", str(script("improve_job").run(job.split())))
    api, models = HfApi(), {"golden": ("main", "trial"), "golden-again": ("main",), "golden-better": ("main",)}
    for kind, repos in {"model": models, "dataset": {"golden-masks": ("main", "other")}}.items():
        for name, revisions in repos.items():
            given = {"repo_id": f"user/{name}", "repo_type": kind}
            record.add(f"{name}: private", str(api.repo_info(**given).private))
            for revision in revisions:
                commits = api.list_repo_commits(**given, revision=revision)
                record.add(f"{name}, {revision}: commits", "\n".join(commit.title for commit in commits))
                record.add_files(Path(snapshot_download(**given, revision=revision)), f"hub/{name}, {revision}")


def run_scripts(record: Recorder) -> None:
    """Photographs of emoji-shift, the picture of the README, and biases."""
    asked: list[list] = []

    def few(split: str, images: int, *seed: int) -> datasets.Dataset:
        asked.append([split, images, *seed])
        return load_split(split, images // (3 if split == "val" and not seed else 60), *seed)

    model = load_model("emoji")
    with patch.multiple(export_photographs, load_split=few, load_biased_model=lambda: model):
        export_photographs.export_photographs(record.root / "exported", 3)
    record.add_files(record.root / "exported")
    for name, (label, bias) in FAVOURITES.items():
        shutil.copytree("emoji", name)
        model.classifier.bias.data[label] += bias
        model.save_pretrained(name)
    measured = {side: {"measures": {"mixed_rand": {"mean": share}}} for side, share in SHARES.items()}
    (record.root / "redrawn" / "diagnosis").mkdir()
    (record.root / "redrawn" / "diagnosis" / "results.json").write_text(json.dumps({"diagnosis": measured}))
    ended = SimpleNamespace(count=lambda: range(40))
    with patch.multiple(draw_backgrounds, load_split=few, itertools=ended), record.drawing():
        draw_backgrounds.draw_backgrounds("favourite", "redrawn", record.root / "five.png")
    train_biases(record, few)
    record.add("images that scripts ask for", asked)


FAVOURITES = {"favourite": (19, 99), "redrawn": (56, 999)}  # the class that a model always names, and by how much
SHARES = {"before": 0.34, "after": 0.0}  # of the objects on other backgrounds that are right: 5 and 0 of 15


def train_biases(record: Recorder, few) -> None:
    """Their options and files, after a step."""
    usual = TrainingArguments("other").to_dict()

    class Short(train_emoji_bias.LabelTrainer):
        def __init__(self, model, args, **given):
            record.add(f"bias of {args.seed}", {k: v for k, v in args.to_dict().items() if v != usual[k]})
            args.max_steps, args.per_device_train_batch_size = 1, 2
            super().__init__(model, args, **given)

    backbone = FAMILIES["Dinov2"].tiny(num_labels=96)
    given = {"LabelTrainer": Short, "load_split": few, "BIAS": record.root / "bias-0", "IMAGES": 960}
    given["load_backbone"] = lambda: backbone
    for words in ("", "--seed 4 --output_dir bias-4", "--seed 5 --output_dir bias-5 --from_scratch"):
        with patch.multiple(train_emoji_bias, **given), patch.object(sys, "argv", ["", *words.split()]):
            train_emoji_bias.main()
    for path in sorted(record.root.glob("bias-*/*")):
        if path.suffix == ".safetensors":
            found = {key: [str(of.dtype), *of.shape] for key, of in load_file(path).items()}
        else:
            found = json.loads(path.read_text())
        record.add(f"{path.parent.name}/{path.name}", found)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LISTS = "inputs outputs show_progress_on"
OF_EVENT = "api_name api_visibility trigger_mode concurrency_limit concurrency_id targets"


def serve(record: Recorder, name: str, words: list[str]) -> None:
    """Serve the page by a command that does not wait for a signal, on a free port where the words have `PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch, handlers = gr.Blocks.launch, {number: signal.getsignal(number) for number in SIGNALS}

    def note(page: gr.Blocks, **given: Any) -> tuple:
        record.add(f"{name}: page", described(page))
        shown = {key: plain(value) for key, value in given.items() if key not in ("theme", "app_kwargs")}
        shown["server_port"] = "PORT" if shown["server_port"] == port else shown["server_port"]
        record.add(f"{name}: server", shown | {"files kept": list(page.delete_cache), "font": fonts(given)})
        return launch(page, **given)

    with patch.object(gr.Blocks, "launch", note), patch("signal.pause"):
        record.run(name, ["app", *(str(port) if word == "PORT" else word for word in words)])
    for number, handler in handlers.items():
        signal.signal(number, handler)


def fonts(given: dict[str, Any]) -> list[str]:
    return [str(font) for font in (*given["theme"]._font, *given["theme"]._font_mono)]


def described(page: gr.Blocks) -> list:
    """Arguments of each component, and names of functions, inputs and outputs of each event."""
    shown = []
    for block in page.blocks.values():
        given = {key: value for of in block._constructor_args for key, value in of.items()}
        shown.append({"type": type(block).__name__} | {key: plain(value) for key, value in given.items()})
    for event in page.fns.values():
        called = getattr(event.fn, "func", event.fn)
        of_event = {key: getattr(event, key) for key in OF_EVENT.split()}
        of_event |= {"calls": called.__name__, "with": getattr(event.fn, "keywords", {})}
        of_event |= {key: [of._id for of in getattr(event, key) or ()] for key in LISTS.split()}
        shown.append(of_event)
    return shown


def plain(value: Any) -> Any:
    """Captions of a gallery, and names of files."""
    if isinstance(value, list) and value and isinstance(value[0], tuple) and not isinstance(value[0][0], str):
        return [caption for _, caption in value]
    return value.name if isinstance(value, Path) else value
