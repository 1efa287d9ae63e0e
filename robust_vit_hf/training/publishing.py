"""A Trainer that publishes its results: run metadata, a model card, and one push."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import CommitInfo
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from ..hub.model_card import write_card
from ..hub.run_metadata import describe_run
from ..hub.upload import create_repo, push_folder
from ..utils.files import RUN_FILE, write_json


class TrainingTime(TrainerCallback, ExportableState):
    """Seconds of training over all parts of a run, saved in each checkpoint."""

    def __init__(self):
        self.earlier = 0.0  # of the parts before this one
        self._started: float | None = None
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        if self._started is None:
            return self.earlier
        return self.earlier + (self._ended or time.monotonic()) - self._started

    def state(self) -> dict:
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(type(self).__name__)  # of the checkpoint, if the run is resumed
        self.earlier = saved["attributes"]["seconds"] if saved else 0.0
        self._started, self._ended = time.monotonic(), None

    def on_train_end(self, args, state, control, **kwargs):
        self._ended = time.monotonic()


class PublishingTrainer(Trainer):
    """A Trainer that makes its model card from run metadata and results, and pushes once, with that card.

    A subclass overrides [`describe_method`].
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._card_facts: dict[str, object] = {}  # arguments of `create_model_card`
        self._last_evaluation: dict[str, float] = {}  # metrics of `eval_dataset`
        self._evaluated_step = None  # when they were measured
        self._resumed = False  # from a checkpoint
        self._time = TrainingTime()
        self.add_callback(self._time)

    @property
    def earlier_seconds(self) -> float:
        """Seconds of training before the run was resumed."""
        return self._time.earlier

    def describe_method(self) -> dict[str, str]:
        """Text descriptions of the method's hyper-parameters by name, for the model card."""
        return {}

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        self._resumed = bool(resume_from_checkpoint)
        self._time.earlier, self._time._started = 0.0, None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluation_loop(self, dataloader, *args, **kwargs):
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        if dataloader.dataset is self.eval_dataset:
            # Not a copy: subclasses may add their metrics.
            self._last_evaluation = output.metrics
            self._evaluated_step = self.state.global_step
        return output

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository before training. Arguments and errors are those of [`push_to_hub`]."""
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
        preset: str | None = None,
    ) -> None:
        """Write `run.json`, and from it and the results `README.md`, to the `output_dir`. Arguments of earlier calls
        are kept unless given again.

        Args:
            language, tags, model_name, tasks, dataset_tags, dataset_args: as in `Trainer.create_model_card`.
            license: license of the weights; by default that of a registered model, otherwise none.
            finetuned_from: Hub id, folder or name of the original model; by default the model's source.
            dataset: Hub id, folder or name of the images.
            masks: description of the masks' origin.
            revision: branch on the Hub; `main` by default.
            preset: preset of the image processor, which later commands take; by default the one with its settings.
        """
        facts = {name: value for name, value in locals().items() if name != "self" and value is not None}
        for name in ("tags", "tasks", "dataset_tags", "dataset_args"):
            if isinstance(facts.get(name), str):
                facts[name] = [facts[name]]
        if isinstance(dataset, list):
            facts["dataset"] = ", ".join(dataset)
        self._card_facts |= facts
        if not self.is_world_process_zero():
            return
        cost = {"seconds": round(self._time.seconds, 1), "resumed": self._resumed}
        run = describe_run(self, self._card_facts, self.describe_method(), self._validation(), cost)
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN_FILE, run)
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
        """Upload model (or adapter), processor, card, results, figures and TensorBoard logs to `args.hub_model_id`, or
        else to the name of the `output_dir`, in one commit. Call it again after an interrupted upload, see
        [`push_folder`].

        Args:
            blocking: whether to wait for the upload; otherwise return a `Future` of the commit.
            revision, token, private: as for [`push_folder`]; those of `args` by default.
            facts: arguments of [`create_model_card`].

        Returns:
            The commit, or a `Future` of it. `None` outside the main process.

        Raises:
            OSError, ValueError: as [`push_folder`].
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        revision = self.args.hub_revision if revision is None else revision
        self._card_facts["revision"] = revision  # not kept from earlier pushes
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

    def _validation(self) -> dict[str, float] | None:
        """Metrics of the saved checkpoint on `eval_dataset`."""
        if self.args.load_best_model_at_end and self.state.best_global_step is not None:
            # The first of that step: later ones may use other images.
            step = self.state.best_global_step
            return next((log for log in self.state.log_history if log["step"] == step and "eval_loss" in log), None)
        return self._last_evaluation if self._evaluated_step == self.state.global_step else None
