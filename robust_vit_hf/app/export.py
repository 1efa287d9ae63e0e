"""Export of the page as a Hub Space that loads models by id."""

import shutil
from importlib.metadata import requires
from pathlib import Path

import gradio
from packaging.requirements import Requirement

from ..evaluation.examples import EXAMPLES_FILE
from ..models.emoji_shift_model import INSTALL_BACKBONE
from ..models.image_processors import Protocol, resolve_protocol
from ..models.model_names import BUNDLED_MODEL, MODELS, resolve
from ..utils.files import RESULTS_FILE, atomic_folder
from ..utils.privacy import is_hub_id
from .other_backgrounds_tab import diagnosis_folder


PACKAGE = Path(__file__).parents[1]
TEMPLATES = Path(__file__).with_name("space")


def write_space(
    folder: Path, before: str, after: str, protocol: Protocol | None, diagnose: Path | None = None
) -> None:
    """Write a Space of Hub ids or registered models to a new or empty folder, with this package, which no index has."""
    for name in (before, after):
        if name not in MODELS and not is_hub_id(name):
            raise ValueError(
                f"`{name}` is not a Hub id, and a Space cannot load a folder of this machine: push it first, `robust-vit push "
                f"{name} OWNER/NAME`, and give that id."
            )
    protocol = resolve_protocol(protocol, before, after)
    ids = [name for name in map(resolve, (before, after)) if name not in MODELS]
    with atomic_folder(folder) as space:
        facts = {"before": before, "after": after, "protocol": protocol, "diagnose": ""}
        facts |= {"models": "\n".join(f"- {name}" for name in ids), "sdk_version": gradio.__version__}
        if diagnose is not None:
            place = diagnosis_folder(diagnose)
            facts["diagnose"] = "diagnose=Path(__file__).with_name('diagnosis'), "
            (space / "diagnosis").mkdir()
            for name in (RESULTS_FILE, EXAMPLES_FILE):
                shutil.copy(place / name, space / "diagnosis" / name)
        for name, template in (("README.md", "README.md"), ("app.py", "app.py.txt")):
            text = (TEMPLATES / template).read_text(encoding="utf-8").format(**facts)
            (space / name).write_text(text, encoding="utf-8")
        lines = requirements(BUNDLED_MODEL in (before, after))
        (space / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        shutil.copytree(PACKAGE, space / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))


def requirements(with_backbone: bool) -> list[str]:
    """Requirements of this package, without the SDK, which the Space installs, but with timm, whose models any id may name, and with
    weights where needed."""
    lines = []
    for line in requires("robust-vit-hf"):
        requirement = Requirement(line)
        extras = ("", "train", "demo", *(["data"] if requirement.name == "timm" else []))
        needed = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if needed and requirement.name != "robust-vit-hf":
            lines.append(f"{requirement.name}{requirement.specifier}")
    if with_backbone:
        lines.append(INSTALL_BACKBONE.rpartition(" ")[2])
    return sorted(lines, key=str.lower)
