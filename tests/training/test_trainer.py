"""The finetuning on small models: what moves, what is logged, and which runs must be equal."""

import copy
import pickle

import datasets
import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from robust_vit_hf import (
    ConfidenceLoss,
    RelevanceLoss,
    RobustViTTrainer,
    make_image_processor,
    relevance_map,
)
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.training.trainer import StartAndEnd

from ..helpers.sessions import evaluate_one
from ..helpers.tiny import STILL, masked_dataset, masked_rows, tensor_rows, tiny_config, tiny_vit


COMPONENTS = ("background_loss", "foreground_loss", "relevance_loss", "confidence_loss", "top1")


def trained(folder, rows=None, model=None, eval_rows=None, **overrides) -> RobustViTTrainer:
    model = tiny_vit() if model is None else model
    trainer = RobustViTTrainer(model, tiny_config(folder, **overrides), rows or tensor_rows(8), eval_rows)
    trainer.train()
    return trainer


def logged(trainer: RobustViTTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def assert_equal_weights(model, other, **tolerance):
    for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        if tolerance["atol"] > 0 and "k_proj.bias" in name:
            continue  # softmax is invariant to it: its gradient is rounding alone, which AdamW blows up to full steps
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def test_every_parameter_moves_and_every_component_is_logged(tmp_path):
    original = tiny_vit()
    trainer = trained(tmp_path, masked_dataset(8), eval_rows=masked_dataset(4, seed=1), eval_strategy="epoch")
    for (name, before), after in zip(original.named_parameters(), trainer.model.parameters(), strict=True):
        assert not torch.equal(before, after), name
    for name in COMPONENTS:
        assert len(logged(trainer, name)) == 2 and len(logged(trainer, f"eval_{name}")) == 2, name
    for prefix in ("", "eval_"):
        parts = (logged(trainer, prefix + name) for name in ("relevance_loss", "confidence_loss", "loss"))
        for relevance, confidence, loss in zip(*parts, strict=True):
            assert 0.8 * relevance + 0.2 * confidence == pytest.approx(loss, rel=1e-3)


def end_workers(trainer):
    """End the persistent workers of a trainer's loaders. A garbage collection would end their queues first, and wait 5 seconds for each."""
    for loader in (trainer.callback_handler.train_dataloader, *getattr(trainer, "_eval_dataloaders", {}).values()):
        loader.base_dataloader._iterator = None


def test_evaluation_counts_every_image_once(tmp_path):
    """Five images in batches of two: the mean over the images, not over the batches."""
    rows, model = tensor_rows(5), tiny_vit()
    trainer = RobustViTTrainer(
        copy.deepcopy(model),
        tiny_config(tmp_path, per_device_eval_batch_size=2),
        eval_dataset=rows,
        compute_metrics=lambda given: {"wrong": (given.predictions.argmax(1) != given.label_ids).mean()},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_wrong"] == pytest.approx(1 - metrics["eval_top1"])
    pixel_values, mask, labels = (torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0])
    output = relevance_map(model, pixel_values, labels)
    expected = RelevanceLoss()(output.relevance, mask) | ConfidenceLoss()(output.logits)
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value.item(), rel=1e-5), name
    total = 0.8 * expected["relevance_loss"] + 0.2 * expected["confidence_loss"]
    assert metrics["eval_loss"] == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.parametrize(
    "images, drop_last, accumulated, steps_per_epoch", [(12, False, 1, 2), (12, True, 1, 1), (28, True, 2, 2)]
)
def test_the_steps_of_an_epoch_count_the_last_batch(tmp_path, images, drop_last, accumulated, steps_per_epoch):
    settings = {"num_train_epochs": 3, "learning_rate": 1e-4, "dataloader_drop_last": drop_last}
    settings["gradient_accumulation_steps"] = accumulated
    rates = logged(trained(tmp_path, tensor_rows(images), **settings), "learning_rate")
    epochs = [1e-4, 1e-4, 0.85e-4]
    assert rates == pytest.approx([rate for rate in epochs for _ in range(steps_per_epoch)])


def test_another_scheduler_is_that_of_the_trainer(tmp_path):
    rates = logged(trained(tmp_path, lr_scheduler_type="linear", learning_rate=1e-4), "learning_rate")
    assert rates == pytest.approx([1e-4, 0.5e-4])


def test_weight_decay_is_on_all_parameters(tmp_path):
    trainer = trained(tmp_path, weight_decay=0.5, num_train_epochs=1)
    (decayed,) = (group for group in trainer.optimizer.param_groups if group["params"])
    assert decayed["weight_decay"] == 0.5
    assert len(decayed["params"]) == len(list(trainer.model.parameters()))


def test_crops_follow_from_seed_epoch_and_row(tmp_path):
    """And not from the workers, or the rows that are read beside one."""
    workers = [{}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}]
    runs = [
        trained(tmp_path / str(n), masked_dataset(8), tiny_vit(**STILL), **settings)
        for n, settings in enumerate(workers)
    ]
    assert_equal_weights(runs[0].model, runs[1].model, atol=0, rtol=0)
    (start,) = (callback for callback in runs[0].callback_handler.callbacks if isinstance(callback, StartAndEnd))
    dataset = runs[0].train_dataset
    images = torch.stack(dataset[:]["pixel_values"])
    assert start.epoch == 1 and torch.equal(dataset[3]["pixel_values"], images[3])
    sent = pickle.loads(pickle.dumps(dataset))  # to workers that start as new processes
    assert torch.equal(sent[3]["pixel_values"], images[3])
    start.epoch.zero_()
    assert not torch.equal(torch.stack(dataset[:]["pixel_values"]), images)
    end_workers(runs[1])


def test_without_labels(tmp_path):
    dataset = masked_dataset(8).remove_columns("label")
    with pytest.raises(ValueError, match="no column `label`"):
        trained(tmp_path, dataset)
    targets = {"relevance_target": "prediction", "confidence_target": "prediction"}
    trainer = trained(tmp_path, dataset, eval_rows=dataset, eval_strategy="epoch", **targets)
    assert logged(trainer, "eval_relevance_loss") and not logged(trainer, "top1")


def test_a_table_of_pixel_values_is_taken_as_it_is(tmp_path):
    """It gives the losses and the accuracy of the rows that it was made from."""
    table = Dataset.from_list(
        [{name: torch.as_tensor(value).tolist() for name, value in row.items()} for row in tensor_rows(8)]
    )
    logs = []
    for name, rows in (("list", tensor_rows(8)), ("table", table.with_format("torch"))):
        trainer = RobustViTTrainer(tiny_vit(), tiny_config(tmp_path / name), rows, rows)
        trainer.train()
        kept = ("loss", "eval_loss", "top1", "eval_top1")
        logs.append([{key: log[key] for key in kept if key in log} for log in trainer.state.log_history])
    assert logs[0] == logs[1] and any("top1" in log for log in logs[0])


@pytest.mark.parametrize("weights", [{}, {"relevance_weight": 0.0, "confidence_weight": 1.0}])
def test_another_image_size_than_the_model_was_made_for(weights, tmp_path, monkeypatch):
    """Every pass interpolates the position embeddings, and the saved model is of use to plain transformers."""
    warned = set()
    monkeypatch.setattr("robust_vit_hf.relevance.architectures.logger.warning_once", warned.add)
    settings = {"eval_strategy": "epoch", "num_train_epochs": 1, **weights}
    processor = make_image_processor("paper", 64)
    config = tiny_config(tmp_path, **settings)
    trainer = RobustViTTrainer(tiny_vit(), config, masked_dataset(4), masked_dataset(4, seed=1), processor)
    trainer.train()
    assert "eval_top1" in trainer.evaluate()
    evaluated = EvaluationSet.of(masked_dataset(4).remove_columns("mask"), source="x")
    assert len(evaluate_one(trainer.model, evaluated, processor)[0]) == 4
    assert warned == {"The model was made for images of 32 pixels: for (64, 64), position embeddings are resized."}
    trainer.save_model()
    trainer.create_model_card()
    assert "model(**inputs, interpolate_pos_encoding=True)" in (tmp_path / "README.md").read_text()
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(masked_rows(1)[0]["image"], return_tensors="pt")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded(**inputs, interpolate_pos_encoding=True).logits.shape == (1, 4)


def test_tensorboard_has_scalars_and_no_images(tmp_path):
    """Images would be uploaded by a push."""
    trained(tmp_path, masked_dataset(8), eval_rows=masked_dataset(4, seed=1), report_to="tensorboard")
    (events,) = (tmp_path / "runs").rglob("events.out.tfevents*")
    log = EventAccumulator(str(events)).Reload()
    assert {"train/background_loss", "train/top1"} <= set(log.Tags()["scalars"])
    assert not log.Tags()["images"]


@pytest.mark.parametrize("images, whole, part, parts, steps", [(16, 8, 1, 8, 4), (3, 3, 2, 2, 2)])
def test_gradient_accumulation(images, whole, part, parts, steps, tmp_path):
    """Three images in batches of two and one, too, are a step of the mean over three."""
    rows, sizes = tensor_rows(images), {"gradient_accumulation_steps": parts, "per_device_train_batch_size": part}
    whole = trained(tmp_path / "a", rows, tiny_vit(**STILL), per_device_train_batch_size=whole)
    parts = trained(tmp_path / "b", rows, tiny_vit(**STILL), **sizes)
    assert parts.state.global_step == whole.state.global_step == steps
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-4)
    assert logged(parts, "learning_rate") == logged(whole, "learning_rate")
    assert_equal_weights(parts.model, whole.model, atol=1e-5, rtol=3e-4)


def test_best_checkpoint_is_loaded_whole(tmp_path):
    """Checkpoints hold the names of transformers 4, of which the Trainer alone would load those that did not change. The
    highest loss counts as the best here: it is that of an early checkpoint, so that loading makes a difference."""
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    settings |= {"num_train_epochs": 5, "learning_rate": 0.02, "greater_is_better": True}
    trainer = trained(tmp_path, eval_rows=tensor_rows(4, seed=1), **settings)
    losses = logged(trainer, "eval_loss")
    best = trainer.state.best_model_checkpoint
    assert best.endswith(f"checkpoint-{1 + losses.index(max(losses))}")
    assert losses.index(max(losses)) < 4
    assert_equal_weights(trainer.model, ViTForImageClassification.from_pretrained(best), atol=0, rtol=0)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), rel=1e-5)


def test_refuses_half_precision_weights(tmp_path):
    with pytest.raises(ValueError, match=r"in torch.bfloat16.*dtype=torch.float32"):
        RobustViTTrainer(tiny_vit().bfloat16(), tiny_config(tmp_path))


def test_refuses_rows(tmp_path):
    with pytest.raises(ValueError, match=r"eval dataset.*\n.*label 3"):
        model = tiny_vit(num_labels=3)
        numbered = masked_dataset(4).cast_column("label", datasets.Value("int64"))
        RobustViTTrainer(model, tiny_config(tmp_path), numbered.select(range(3)), numbered)
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in tensor_rows(4)]
    with pytest.raises(ValueError, match="there is no `labels`"):
        trained(tmp_path, rows)
    rows = [row | {"mask": row["mask"] * 255} for row in tensor_rows(4)]
    with pytest.raises(ValueError, match="from 0 to 255"):
        trained(tmp_path, rows)
    assert not list(tmp_path.glob("*.safetensors"))


def test_skips_or_refuses_empty_masks(tmp_path):
    rows = masked_rows(4)
    rows[1]["mask"].paste(0, (0, 0, 40, 40))
    dataset = Dataset.from_list(rows, features=masked_dataset(1).features)
    assert len(RobustViTTrainer(tiny_vit(), tiny_config(tmp_path), dataset).train_dataset) == 3
    with pytest.raises(ValueError, match=r"1 of 4 rows of the train dataset cannot be used:\n.*mask is empty"):
        RobustViTTrainer(tiny_vit(), tiny_config(tmp_path, bad_masks="refuse"), dataset)
