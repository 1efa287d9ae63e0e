"""Streamed training sets: rows that are checked as they come, shared by processes, and the same after a kill."""

import json
import logging
import re
from itertools import islice

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from robust_vit_hf import RobustViTTrainer, make_image_processor, train_transform
from robust_vit_hf.data.stream import MaskedStream, stream_identity

from ..helpers import tiny
from ..helpers.commands import call, launch_two, succeed
from ..training.test_resume import assert_same_weights


pytestmark = pytest.mark.usefixtures("datasets_cache", "short_sleep")


@pytest.fixture
def short_sleep(monkeypatch):
    """`datasets` sleeps for five seconds after each pass over parquet files, of which the tests make many."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)


def stream_of(dataset, num_shards: int = 1, **options) -> MaskedStream:
    transform = train_transform(make_image_processor("paper", tiny.IMAGE_SIZE))
    rows = dataset.to_iterable_dataset(num_shards) if isinstance(dataset, datasets.Dataset) else dataset
    return MaskedStream(rows, "train", transform, 4, None, **{"bad_masks": "skip", "seed": 0} | options)


def numbers(stream, count: int) -> list[int]:
    """Numbers of the first rows."""
    return [int(re.search(r"row (\d+)", row["name"])[1]) for row in islice(stream, count)]


def labelled(labels: list[int]) -> datasets.Dataset:
    rows = [row | {"label": label} for row, label in zip(tiny.masked_rows(len(labels)), labels, strict=True)]
    return datasets.Dataset.from_list(
        rows, features=datasets.Features(tiny.FEATURES | {"label": datasets.Value("int64")})
    )


def with_bad_rows() -> datasets.Dataset:
    """Eight rows, of which 1, 3 and 5 cannot be used."""
    rows = tiny.masked_rows(8)
    rows[1]["mask"] = Image.new("L", tiny.WIDE)
    rows[3]["mask"] = Image.new("L", (52, 41), 255)
    encoded = [tiny.FEATURES.encode_example(row) for row in rows]
    encoded[5]["image"] = {"bytes": b"no image", "path": "broken.png"}
    return datasets.Dataset.from_list(encoded, features=tiny.FEATURES)


def make_trainer(folder, rows=None, eval_rows=None, callbacks=None, model=None, **settings) -> RobustViTTrainer:
    rows = tiny.masked_dataset(10).to_iterable_dataset(2).shuffle(0, buffer_size=5) if rows is None else rows
    defaults = {"per_device_train_batch_size": 4, "max_steps": 6}
    defaults |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    return RobustViTTrainer(
        model or tiny.tiny_vit(), tiny.tiny_config(folder, **defaults | settings), rows, eval_rows, callbacks=callbacks
    )


def test_bad_rows_are_named_once_and_left_out(caplog, monkeypatch):
    monkeypatch.setattr("robust_vit_hf.data.stream.MAX_BAD_ROWS", 2)  # in a row, not in all
    with caplog.at_level(logging.WARNING):
        assert numbers(stream_of(with_bad_rows()), 10) == [0, 2, 4, 6, 7] * 2
    told = [record.getMessage() for record in caplog.records]
    expected = [
        "row 1 .*: mask is empty",
        "row 3 .* is 52×40 but mask is 52×41",
        r"row 5 \(broken.png\): image cannot",
    ]
    assert len(told) == 3
    for message, pattern in zip(told, expected, strict=True):
        assert re.search(f"train dataset, {pattern}.*The row is left out", message)


def test_bad_rows_are_refused():
    with pytest.raises(ValueError, match=r"train dataset, row 1 \(.*\): mask is empty.*bad_masks='skip'"):
        numbers(stream_of(with_bad_rows(), bad_masks="refuse"), 2)


def test_labels_of_another_model_are_refused():
    """Even if bad rows are left out: the other labels would be wrong too."""
    with pytest.raises(ValueError, match=r"row 2 .*: label 4 is outside the model's classes 0–3"):
        numbers(stream_of(labelled([1, 2, 4])), 3)


def test_a_dataset_without_a_usable_row_ends():
    rows = [row | {"mask": Image.new("L", tiny.WIDE)} for row in tiny.masked_rows(3)]
    with pytest.raises(ValueError, match=r"mask is empty. None of the last 100 rows can be used"):
        numbers(stream_of(datasets.Dataset.from_list(rows, features=tiny.FEATURES)), 1)
    with pytest.raises(ValueError, match="The train dataset has no rows"):
        numbers(stream_of(datasets.IterableDataset.from_generator(lambda: iter([]), features=tiny.FEATURES)), 1)


def test_the_model_numbers_the_classes(tmp_path):
    model = tiny.tiny_vit()
    model.config.id2label = dict(enumerate("dcba"))
    trainer = make_trainer(tmp_path, tiny.masked_dataset(4).to_iterable_dataset(), model=model)
    assert [row["labels"] for row in islice(trainer.train_dataset, 4)] == [3 - label for label in tiny.LABELS[:4]]


def test_workers_do_not_change_an_image():
    dataset = tiny.masked_dataset(6)
    alone, shared = (
        [row["pixel_values"] for row in islice(DataLoader(stream_of(dataset), None, num_workers=workers), 15)]
        for workers in (0, 2)
    )
    assert all(map(torch.equal, alone, shared))
    assert not torch.equal(alone[0], next(iter(stream_of(dataset, seed=1)))["pixel_values"])


def test_a_pass_has_an_order_and_crops_of_its_own():
    pixels = [row["pixel_values"] for row in islice(stream_of(tiny.masked_dataset(2)), 4)]
    assert not torch.equal(pixels[0], pixels[2])
    shuffled = stream_of(tiny.masked_dataset(16).to_iterable_dataset().shuffle(0, buffer_size=16))
    first, second = (order := [row["labels"] for row in islice(shuffled, 32)])[:16], order[16:]
    assert sorted(first) == sorted(second) and first != second


def test_rows_of_a_function(tmp_path):
    """`map` gives decoded images, which are identified by their pixels."""
    dataset = tiny.masked_dataset(4)
    turned = dataset.to_iterable_dataset().map(
        lambda row: row | {"image": row["image"].rotate(90)}, features=tiny.FEATURES
    )
    stored = dataset.map(lambda row: row | {"image": row["image"].rotate(90)}).to_iterable_dataset()
    for row, expected in zip(islice(stream_of(turned), 8), islice(stream_of(stored), 8), strict=True):
        assert torch.equal(row["pixel_values"], expected["pixel_values"])
    assert stream_identity(turned) == stream_identity(turned)
    # Without features, rows may be anything, and are taken as they are.
    mapped = dataset.to_iterable_dataset().map(lambda row: row)
    assert make_trainer(tmp_path, mapped).train_dataset is mapped


def test_it_trains_on_as_many_passes_as_it_takes(tmp_path):
    settings = {"background_swap": 0.5, "confidence_target": "label", "gradient_accumulation_steps": 2}
    settings |= {"eval_strategy": "steps", "eval_steps": 3, "report_to": "tensorboard"}
    trainer = make_trainer(tmp_path, with_bad_rows().to_iterable_dataset(), tiny.masked_dataset(4, seed=1), **settings)
    trainer.train()
    assert trainer.state.global_step == 6  # 48 images, 5 a pass
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 6 and all("top1" in entry for entry in logged)
    assert len({entry["learning_rate"] for entry in logged}) == 1
    assert sum("eval_top1" in entry for entry in trainer.state.log_history) == 2
    for before, after in zip(tiny.tiny_vit().parameters(), trainer.model.parameters(), strict=True):
        assert not torch.equal(before, after)


def test_a_stopped_run_goes_on_with_the_same_images(tmp_path):
    """In the middle of a pass over rows of which some are left out, with dropout, accumulation and two workers that read ahead."""

    def trainer(folder: str) -> RobustViTTrainer:
        rows = with_bad_rows().to_iterable_dataset(2).shuffle(0, buffer_size=5)
        settings = {"gradient_accumulation_steps": 2, "background_swap": 0.5, "confidence_target": "label"}
        settings |= {"model": tiny.tiny_vit(hidden_dropout_prob=0.1)}
        return make_trainer(tmp_path / folder, rows, dataloader_num_workers=2, **settings)

    trainer("whole").train()
    trainer("stopped").train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same_weights(tmp_path / "stopped" / "checkpoint-6", tmp_path / "whole" / "checkpoint-6")


def test_an_evaluation_reads_a_stream_once(tmp_path):
    rows = tiny.masked_dataset(6, seed=1)
    trainer = make_trainer(tmp_path, eval_rows=rows.to_iterable_dataset(), eval_strategy="steps", eval_steps=6)
    streamed, table = trainer.evaluate(), trainer.evaluate(rows)
    names = [name for name in table if name.endswith(("loss", "top1"))]
    assert len(names) == 6 and [streamed[name] for name in names] == pytest.approx([table[name] for name in names])
    assert len(trainer.predict(rows.to_iterable_dataset()).predictions) == 6


def test_identity():
    dataset = tiny.masked_dataset(6)
    identity = stream_identity(dataset.to_iterable_dataset())
    assert identity == stream_identity(tiny.masked_dataset(6).to_iterable_dataset())
    others = [dataset.select([1, 0, 2, 3, 4, 5]), dataset.select(range(5)), dataset.rename_column("label", "class")]
    others = [other.to_iterable_dataset() for other in others]
    others += [dataset.to_iterable_dataset(2), dataset.to_iterable_dataset().shuffle(1)]
    assert len({identity, *map(stream_identity, others)}) == 6
    ends = [dataset.select(99 * [0] + end).to_iterable_dataset() for end in ([0, 0], [0, 1], [1, 0])]
    first, second, third = map(stream_identity, ends)
    assert first == second != third  # by the first 100 rows


def test_command(tmp_path):
    """Over four files with six images each, one of them bad."""
    for shard in range(4):
        rows = tiny.masked_rows(6, seed=shard)
        rows[shard]["mask"] = Image.new("L", tiny.WIDE)
        shard_file = tmp_path / "data" / f"train-{shard:05d}-of-00004.parquet"
        datasets.Dataset.from_list(rows, features=tiny.FEATURES).to_parquet(shard_file)
    tiny.masked_dataset(4, seed=9).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    tiny.save_pretrained(tiny.tiny_vit(), tmp_path / "model")
    options = ["train", "--streaming", "--model", tmp_path / "model", "--dataset", tmp_path / "data"]
    options += "--max_steps 12 --report_to none --use_cpu True --save_strategy no --eval_strategy no".split()
    options += ["--load_best_model_at_end", "False", "--per_device_train_batch_size", 4]
    out = succeed(*options, "--output_dir", tmp_path / "run")
    assert "Model, card, results.json and table" in out
    card = (tmp_path / "run" / "README.md").read_text()
    assert ", validated on 4 others." in card and re.search(r"\| learning rate \| \S+, constant \|", card)
    options[options.index("--max_steps") + 1] = -1
    refused = call(*options, "--output_dir", tmp_path / "other")
    assert "max_steps has to be specified" in refused.error


@pytest.mark.release
def test_two_processes_train_as_one(tmp_path):
    """A file is shared row by row, so that the batches of both are that of one process."""
    tiny.masked_dataset(16).to_parquet(tmp_path / "data" / "train-00000.parquet")
    tiny.masked_dataset(4, seed=9).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    tiny.save_pretrained(tiny.tiny_vit(**tiny.STILL), tmp_path / "model")
    command = ["train", "--streaming", "--model", tmp_path / "model", "--dataset", tmp_path / "data", "--max_steps", 6]
    command += ["--report_to", "none", "--use_cpu", "True", "--learning_rate", 1e-3, "--save_strategy", "no"]
    command += ["--eval_strategy", "no", "--load_best_model_at_end", "False", "--per_device_train_batch_size"]
    succeed(*command, 8, "--output_dir", tmp_path / "one")
    done = launch_two("--module", "robust_vit_hf.cli", *command, 4, "--output_dir", tmp_path / "two")
    assert done.status == 0, done.err[-3000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, expected in one.items():
        if "key.bias" not in name:  # its gradient is rounding alone, which AdamW blows up to full steps
            torch.testing.assert_close(two[name], expected, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("schedule, told", [("step_decay", "0.001, constant"), ("cosine", "0.001, cosine")])
def test_the_card_names_the_schedule(schedule, told, tmp_path):
    """A stream has no epochs, after which `step_decay` would lower the rate. Other schedules count steps."""
    config = tiny.tiny_config(tmp_path, max_steps=1, lr_scheduler_type=schedule)
    trainer = RobustViTTrainer(tiny.tiny_vit(), config, tiny.masked_dataset(8).to_iterable_dataset())
    trainer.create_model_card()
    assert json.loads((tmp_path / "run.json").read_text())["training"]["learning rate"] == told
