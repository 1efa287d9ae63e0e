"""Records of scripts in `trainer/` and `experiments/`, on few images and small models, and of what is pushed to the Hub."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import datasets
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
    logs = "--report_to tensorboard --relevance_strip_steps 1 --use_cpu --disable_tqdm"
    record.run("run", f"train --model still --dataset masked {short} {logs}".split())
    record.run("of-coco", "masks coco --images photographs --annotations coco.json --per_class 2 --skip_bad".split())
    record.run("pushed", "push run user/golden --private --revision trial --commit_message First".split())
    record.run("pushed again", "push run golden-again".split())
    record.run("pushed masks", "push of-coco user/golden-masks --private --revision other".split())
    job = (
        "vit photographs user/golden-better --private --output_dir better --masks masks --num_images 8 --max_loss 100"
    )
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
