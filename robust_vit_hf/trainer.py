"""The finetuning: a `Trainer` that adds the relevance and confidence losses to a vision transformer."""

import json
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import CommitInfo
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import EvalLoopOutput

from .architectures import attention_modules, patch_grid, unwrap_pretrained
from .callbacks import RelevanceTensorBoardCallback
from .config import RobustViTConfig
from .data import check_columns, check_rows
from .files import write_atomically
from .hub import create_repo, push_folder
from .losses import ConfidenceLoss, RelevanceLoss
from .model_card import write_card
from .relevance import explicit_attention, relevance_map
from .run_record import RUN_FILE, describe_run
from .transforms import eval_transform, make_image_processor, train_transform


class RobustViTTrainer(Trainer):
    """Finetunes the relevance maps of an image classification model, Eq. 5 of
    https://huggingface.co/papers/2206.01161.

    Logs `background_loss`, `foreground_loss`, `relevance_loss`, `confidence_loss` and `top1` beside `loss`, for
    training and evaluation (with the prefix `eval_`), and `original_top1`, the accuracy of the model as it was handed
    over. For the training images that is measured once, on their evaluation view.

    Args:
        model (`PreTrainedModel`): image classification model with a CLS token and one patch grid, or a PEFT model of it.
        args ([`RobustViTConfig`]): hyper-parameters; those of the paper by default.
        train_dataset, eval_dataset (`datasets.Dataset`): rows with `image`, `mask` and `label`. Every row is checked
            here, and the joint transforms that match `processing_class` are applied. A dataset that already yields
            `pixel_values` `(3, H, W)`, `mask` `(1, H, W)` in [0, 1] and `labels` is taken as it is.
        processing_class (`BaseImageProcessor`, *optional*): image processor with a centre crop, saved with the model.
            The `paper` preset at the model's image size by default. See [`make_image_processor`].

    Raises:
        ValueError: an architecture without relevance maps, rows that cannot be used, or an image size that the patch
            size does not divide. Always before the first step.
    """

    # Our loss is a mean over the batch, so the Trainer must divide it by the accumulation steps. It would not, by
    # itself: ViTs take **kwargs in `forward`, which it reads as "normalises its own loss".
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module,
        args: RobustViTConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: Any = None,
        **kwargs,
    ):
        attention_modules(model)
        config = unwrap_pretrained(model).config
        if processing_class is None:
            processing_class = make_image_processor("paper", config.image_size)
        if getattr(processing_class, "crop_size", None) is None or not hasattr(processing_class, "resample"):
            raise ValueError(
                f"`processing_class` is a {type(processing_class).__name__} without a centre crop, whose size the joint "
                "transforms take. Make one: `make_image_processor('native', 224, AutoImageProcessor.from_pretrained(…))`."
            )
        half = {p.dtype for p in model.parameters() if p.requires_grad} - {torch.float32}
        if half:
            raise ValueError(
                f"The model's weights are {', '.join(map(str, half))}, in which steps of this size round to nothing. Load "
                "it with `dtype=torch.float32`, and give `bf16=True` for speed."
            )
        if args.n_gpu > 1:
            raise ValueError(
                "One process over several GPUs is not supported: start one each with `accelerate launch`."
            )
        patch_grid(model, (processing_class.crop_size["height"], processing_class.crop_size["width"]))
        if isinstance(eval_dataset, dict):
            raise ValueError("Expected one `eval_dataset`, but got a dict. Call `evaluate_sets` for several.")
        prepared = {
            name: self._prepare_dataset(name, dataset, transform(processing_class), config.num_labels, args)
            for name, dataset, transform in (
                ("train", train_dataset, train_transform),
                ("eval", eval_dataset, eval_transform),
            )
            if dataset is not None
        }
        super().__init__(
            model,
            args,
            train_dataset=prepared.get("train"),
            eval_dataset=prepared.get("eval"),
            processing_class=processing_class,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        if isinstance(prepared.get("train"), datasets.Dataset):
            prepared["train"] = prepared["train"].with_transform(eval_transform(processing_class))
        self._measured_on = prepared

        self.relevance_loss = RelevanceLoss(
            args.background_weight, args.foreground_weight, args.relevance_distance, args.mask_edges
        )
        self.confidence_loss = ConfidenceLoss(args.confidence_temperature)
        self._train_values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._eval_values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._original_top1: dict[str, float] = {}
        self._description: dict[str, str] = {}  # what the model card is told beside what the trainer knows
        self.adapter = next(iter(getattr(model, "peft_config", {}).values()), None)  # which a script may merge later
        self.validation: dict[str, float] = {}  # the last evaluation of `eval_dataset`, with its step
        self.resumed = False  # whether the training went on from a checkpoint
        self._strips = None
        if self.pop_callback(TensorBoardCallback) is not None:
            self._strips = RelevanceTensorBoardCallback(self)
            self.add_callback(self._strips)

    @staticmethod
    def _prepare_dataset(
        name: str, dataset: Dataset, transform: Callable, num_labels: int, args: RobustViTConfig
    ) -> Dataset:
        if isinstance(dataset, datasets.IterableDataset):
            raise ValueError(
                f"The {name} dataset is streamed, but every row is checked before training: load it whole."
            )
        if not isinstance(dataset, datasets.Dataset) or "pixel_values" in dataset.column_names:
            return dataset
        check_columns(dataset, name, args.needs_labels)
        return check_rows(dataset, name, num_labels, args.bad_masks).with_transform(transform)

    # -- Losses -------------------------------------------------------------------------------------------------------

    def _losses_per_image(self, model: nn.Module, inputs: dict) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Components `(B,)` of the loss of each image, `loss` and `top1` among them, and the logits `(B, C)`."""
        args, labels = self.args, inputs.get("labels")
        if "mask" not in inputs:
            raise ValueError(f"A batch has no `mask`; it has {', '.join(inputs)}. Each row needs a `mask` (1, H, W).")
        values = {}
        if args.relevance_weight > 0:
            target = labels if args.relevance_target == "label" else None
            output = relevance_map(model, inputs["pixel_values"], target, create_graph=args.second_order)
            values |= self.relevance_loss.per_image(output.relevance, inputs["mask"])
        else:
            output = model(pixel_values=inputs["pixel_values"])
        values |= self.confidence_loss.per_image(output.logits, labels if args.confidence_target == "label" else None)
        values["loss"] = args.confidence_weight * values["confidence_loss"]
        if args.relevance_weight > 0:
            values["loss"] = values["loss"] + args.relevance_weight * values["relevance_loss"]
        if labels is not None:
            values["top1"] = (output.logits.argmax(dim=1) == labels).float()
        return values, output.logits

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss of the batch, and with `return_outputs` a dict of its `logits`."""
        values, logits = self._losses_per_image(model, inputs)
        if model.training:
            for name, value in values.items():
                self._train_values[name].append(value.detach().mean())
        loss = values["loss"].mean()
        return (loss, {"logits": logits}) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        # Activation checkpointing computes the attention again in backward, so the implementation must hold until then.
        with explicit_attention(model):
            return super().training_step(model, inputs, num_items_in_batch)

    # -- Optimisation -------------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters: the released code decays biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Learning rate × `lr_decay_rate` every `lr_decay_every` epochs; other scheduler types as in the Trainer."""
        args = self.args
        if self.lr_scheduler is None and args.lr_scheduler_type == "constant":
            batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
            images = len(self.train_dataset)
            steps_per_epoch = max(1, images // batch_size if args.dataloader_drop_last else -(-images // batch_size))
            self.lr_scheduler = LambdaLR(
                self.optimizer if optimizer is None else optimizer,
                lambda step: args.lr_decay_rate ** (step // steps_per_epoch // args.lr_decay_every),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # -- Training and evaluation --------------------------------------------------------------------------------------

    # Checkpoints are saved under the parameter names of transformers 4, and only `from_pretrained` converts them: the
    # Trainer loads them with `load_state_dict(strict=False)`, which leaves out every renamed weight, so that a resumed
    # run, or the best model, would have the attention of another step (huggingface/transformers#48805).

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PreTrainedModel):
            self.model.load_state_dict(type(self.model).from_pretrained(resume_from_checkpoint).state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # an adapter, whose names are PEFT's

    def _load_best_model(self) -> None:
        if isinstance(self.model, PreTrainedModel):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        # The released code runs a second copy of the original model in every step to log its accuracy. Before the
        # first step this model is the original, also when the run is resumed.
        if not self._original_top1:
            self._original_top1 = {mode: self._top1(dataset) for mode, dataset in self._measured_on.items()}
            if self._strips is not None:
                self._strips.measure_before()
        self.resumed = bool(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    @torch.no_grad()
    def _top1(self, dataset: Dataset) -> float | None:
        """Accuracy of the model on a dataset, as a fraction; `None` without labels."""
        correct = []
        model = self.model.to(self.args.device).eval()
        # Not the evaluation loader, which persistent workers would keep for all later evaluations.
        for batch in self.get_test_dataloader(dataset):
            if "labels" not in batch:
                return None
            with self.accelerator.autocast():
                logits = model(pixel_values=batch["pixel_values"]).logits
            correct.append(self.accelerator.gather_for_metrics(logits.argmax(dim=1) == batch["labels"]))
        return torch.cat(correct).float().mean().item()

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss, logits and labels of a batch. The Trainer's own would need labels, and gather every output."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            values, logits = self._losses_per_image(model, inputs)
        for name, value in values.items():
            self._eval_values[name].append(self.accelerator.gather_for_metrics(value))
        loss = values["loss"].mean()
        return (loss, None, None) if prediction_loss_only else (loss, logits, inputs.get("labels"))

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """The Trainer's, with the components of the loss in its metrics: means over the images, each counted once."""
        self._eval_values.clear()
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        for name, values in self._eval_values.items():
            output.metrics[f"{metric_key_prefix}_{name}"] = torch.cat(values).mean().item()
        if dataloader.dataset is self.eval_dataset and self._original_top1.get("eval") is not None:
            output.metrics[f"{metric_key_prefix}_original_top1"] = self._original_top1["eval"]
        if dataloader.dataset is self.eval_dataset:
            self.validation = {"step": self.state.global_step, **output.metrics}
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`, and beside a training loss the means of its components since the last log."""
        if "loss" in logs:
            for name, values in self._train_values.items():
                if name != "loss":
                    logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            if self._original_top1.get("train") is not None:
                logs["original_top1"] = self._original_top1["train"]
            self._train_values.clear()
        super().log(logs, start_time)

    # -- The Hub ------------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, before the training. Arguments are those of [`push_to_hub`], and so are the errors."""
        if self.is_world_process_zero():
            self.hub_model_id = create_repo(
                self.args.hub_model_id or Path(self.args.output_dir).resolve().name,
                private=self.args.hub_private_repo if private is None else private,
                token=self.args.hub_token if token is None else token,
            )

    def create_model_card(
        self,
        model_name: str | None = None,
        *,
        started_from: str | None = None,
        dataset: str | None = None,
        masks: str | None = None,
        license: str | None = None,
        revision: str | None = None,
    ) -> None:
        """Write `run.json`, and `README.md` from it and the results that lie beside it, into the `output_dir`.

        Args:
            model_name: heading; by default the name on the Hub, or that of the `output_dir`.
            started_from, dataset, masks, license, revision: see [`describe_run`]. What an earlier call said holds until
                another says otherwise.
        """
        said = {"model_name": model_name, "started_from": started_from, "dataset": dataset, "masks": masks}
        said |= {"license": license, "revision": revision}
        self._description |= {key: value for key, value in said.items() if value is not None}
        if not self.is_world_process_zero():
            return
        run = describe_run(self, **self._description)
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RUN_FILE, json.dumps(run, indent=2) + "\n")
        write_card(folder)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **description,
    ) -> CommitInfo | Future | None:
        """Upload model (or adapter), processor, card, results, figures and TensorBoard logs to `args.hub_model_id`, or else to
        the name of the `output_dir`, in one commit. After an upload that was cut off, call it again: large files that the
        Hub has are not uploaded twice.

        Args:
            commit_message, revision: of the commit; a branch that does not exist is made.
            blocking: whether to return when all is uploaded; otherwise a `Future` is returned.
            token, private: by default `args.hub_token` and `args.hub_private_repo`.
            description: arguments of [`create_model_card`].

        Returns:
            The commit, or a `Future` of it. `None` in all processes but the first.

        Raises:
            OSError: the Hub refuses it or cannot be reached, see [`clear_errors`].
            ValueError: an adapter whose base nobody else can load.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        revision = self.args.hub_revision if revision is None else revision
        self.create_model_card(revision=revision, **description)
        pool = ThreadPoolExecutor(1)
        future = pool.submit(
            push_folder,
            Path(self.args.output_dir),
            self.hub_model_id,
            commit_message=commit_message,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision,
            token=self.args.hub_token if token is None else token,
        )
        pool.shutdown(wait=False)
        return future.result() if blocking else future
