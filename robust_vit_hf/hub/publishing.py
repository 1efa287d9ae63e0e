"""A Trainer that publishes what was measured: run metadata, a model card, and one push."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import CommitInfo
from transformers import Trainer

from ..utils.files import write_atomically
from .model_card import write_card
from .run_metadata import RUN_FILE, describe_run, describe_validation
from .upload import create_repo, push_folder


class PublishingTrainer(Trainer):
    """A Trainer whose model card is made from run metadata and results, and which pushes once, with that card.

    A subclass says what its method is in [`describe_method`].
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._card_facts: dict[str, object] = {}  # what `create_model_card` was told
        self._last_evaluation: dict[str, float] = {}  # metrics of `eval_dataset`
        self._evaluated_step = None  # when they were measured
        self._resumed = False  # whether the training was resumed from a checkpoint

    def describe_method(self) -> dict[str, str]:
        """Hyper-parameters of the method by name, in words, for the model card."""
        return {}

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        self._resumed = bool(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluation_loop(self, dataloader, *args, **kwargs):
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if dataloader.dataset is self.eval_dataset:
            # The dict itself, to which a subclass may add its own metrics.
            self._last_evaluation = output.metrics
            self._evaluated_step = self.state.global_step
        return output

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, before the training. Arguments and errors are those of [`push_to_hub`]."""
        if self.is_world_process_zero():
            self.hub_model_id = create_repo(
                self.args.hub_model_id or Path(self.args.output_dir).resolve().name,
                private=self.args.hub_private_repo if private is None else private,
                token=self.args.hub_token if token is None else token,
            )

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        *,
        masks: str | None = None,
        revision: str | None = None,
    ) -> None:
        """Write `run.json`, and `README.md` from it and the results beside it, into the `output_dir`.

        Args:
            language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: as in
                `Trainer.create_model_card`; see [`describe_run`] for the defaults.
            masks, revision: see [`describe_run`].

        What an earlier call was told holds until another call is told otherwise.
        """
        lists = {"tags": tags, "tasks": tasks, "dataset_tags": dataset_tags, "dataset_args": dataset_args}
        facts = {name: [value] if isinstance(value, str) else value for name, value in lists.items()}
        facts |= {"language": language, "license": license, "model_name": model_name, "revision": revision}
        facts |= {"finetuned_from": finetuned_from, "masks": masks}
        facts |= {"dataset": ", ".join(dataset) if isinstance(dataset, list) else dataset}
        self._card_facts |= {name: value for name, value in facts.items() if value is not None}
        if not self.is_world_process_zero():
            return
        run = describe_run(
            self,
            self.describe_method(),
            validation=self._validation(),
            resumed=self._resumed,
            **self._card_facts,
        )
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
        **facts,
    ) -> CommitInfo | Future | None:
        """Upload model (or adapter), processor, card, results, figures and TensorBoard logs to `args.hub_model_id`, or else to
        the name of the `output_dir`, in one commit. After an upload that was cut off, call it again: large files that the
        Hub has are not uploaded twice.

        Args:
            commit_message, revision: of the commit; a branch that does not exist is created.
            blocking: whether to return when all is uploaded; otherwise a `Future` is returned.
            token, private: by default `args.hub_token` and `args.hub_private_repo`.
            facts: arguments of [`create_model_card`].

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
        self._card_facts["revision"] = revision  # that of an earlier push does not hold
        self.create_model_card(**facts)
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

    def _validation(self) -> dict | None:
        """The evaluation of the checkpoint that was kept."""
        kept = self._last_evaluation
        if self.args.load_best_model_at_end and self.state.best_global_step is not None:
            # The first of that step: later ones may be of other images.
            logs = [e for e in self.state.log_history if e["step"] == self.state.best_global_step and "eval_loss" in e]
            kept = logs[0] if logs else {}
        elif self._evaluated_step != self.state.global_step:
            kept = {}
        return describe_validation(len(self.eval_dataset), kept) if kept else None
