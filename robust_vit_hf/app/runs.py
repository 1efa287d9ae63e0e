"""Finetunings that the page shows: the newest run of the bundled model or a cached one."""

from pathlib import Path

from ..experiments.recipes import list_recipes, train_arguments
from ..models import emoji_shift_model as model
from ..models.model_names import BUNDLED_MODEL, registered_of
from ..training.finetuning import finetune
from ..utils.cache import cache_of
from ..utils.files import RUN_FILE, atomic_folder, read_json


def newest_run(folder: Path) -> Path | None:
    """Newest complete finetuning run of the bundled model in a folder."""
    runs = [file for file in folder.glob(f"*/{RUN_FILE}") if registered_of(read_json(file)) == BUNDLED_MODEL]
    newest = max(runs, key=lambda file: file.stat().st_mtime, default=None)
    return newest and newest.parent


def cached_run(**options) -> Path:
    """Folder of the bundled model, finetuned by its recipe at the first call, with `options` of `robust-vit train`."""
    recipe = list_recipes()[BUNDLED_MODEL]
    folder = cache_of((recipe, Path(model.__file__))) / "finetuned"
    if not (folder / RUN_FILE).is_file():
        shown = {"control": False, "images_per_set": 50, "report_to": "none", "save_strategy": "no"}
        with atomic_folder(folder) as partial:
            finetune(*train_arguments(recipe, output_dir=str(partial), **shown | options))
    return folder
