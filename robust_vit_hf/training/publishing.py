"""Publishing from a Trainer: the model card, and the push to the Hub."""

import inspect
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer

from ..hub.model_card import describe_run, write_card
from ..hub.upload import create_repo, push_folder
from ..utils.files import RUN_FILE, write_json


class PublishingTrainer(Trainer):
    """Trainer that writes this package's model card, and uploads only the files of a model."""

    def create_model_card(
        self, *args, masks: str | None = None, revision: str | None = None, protocol: str | None = None, **kwargs
    ) -> None:
        """Write `run.json` to the `output_dir`, and `README.md` from it and the results. Arguments of earlier calls are
        kept unless they are given again.

        Args:
            finetuned_from, dataset: Hub ids, folders or names of the original model and of the images.
            protocol: protocol of the image processor. Later commands use it by default.
            revision: branch on the Hub.
            others: as in `Trainer.create_model_card`.
        """
        given = inspect.signature(super().create_model_card).bind(*args, **kwargs).arguments
        given |= {"masks": masks, "revision": revision, "protocol": protocol}
        self._card_facts |= {name: value for name, value in given.items() if value is not None}
        if self.is_world_process_zero():
            write_json(Path(self.args.output_dir, RUN_FILE), describe_run(self, self._card_facts))
            write_card(Path(self.args.output_dir))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, so that a wrong token or name fails before training. Arguments as in [`push_to_hub`]."""
        if self.is_world_process_zero():
            self.hub_model_id = create_repo(
                self.args.hub_model_id or Path(self.args.output_dir).resolve().name,
                private=self.args.hub_private_repo if private is None else private,
                token=token or self.args.hub_token,
            )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **facts,
    ) -> CommitInfo | Future | None:
        """Upload model or adapter, processor, card, results, figures and TensorBoard logs in one commit to
        `args.hub_model_id`, by default the name of the `output_dir`. Call it again after an interrupted upload.

        Args:
            blocking: whether to wait for the upload.
            facts: arguments of [`create_model_card`].
            others: as in [`push_folder`], by default those of `args`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        revision = revision or self.args.hub_revision
        self._card_facts["revision"] = revision  # replaces the revision of an earlier push
        self.create_model_card(**facts)
        future = HfApi().run_as_future(
            push_folder,
            Path(self.args.output_dir),
            self.hub_model_id,
            commit_message=commit_message,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision,
            token=token or self.args.hub_token,
        )
        return future.result() if blocking else future
