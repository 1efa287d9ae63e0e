"""Forty photographs that were not used for any training or choice: desktop backgrounds of Debian, with their licences.

They are downloaded with `apt-get` on Debian or a derivative, after `apt-get update` (217 MB), and unpacked. They were
chosen by looking at all backgrounds of these packages, before any measurement: photographs in landscape format, one of
a scene, in which no object of a class of emoji-shift stands out (a dog, a kite, a maple leaf), and not of what one of
its usual backgrounds shows (a lawn, a clock, cups).
"""

import re
import subprocess
from email import message_from_string
from pathlib import Path

from PIL import Image

from robust_vit_hf.utils.images import to_rgb


HEIGHT = 300  # to which they are reduced, so that crops show as much as those of emoji-shift do
DESKTOP_PHOTOGRAPHS = {  # by package: files in usr/share, and their names
    "budgie-backgrounds": (
        "backgrounds/budgie/{}.jpg",
        "beacon-street-sunset blue-periwinkle canyon-wren casa-mila extreme-desert-hike high-trestle-trail "
        "lake-sherburne "
        "oakland-zoo-otters piazza-gae-aulenti roman-colosseum singaporean-cityscape tea-gardens",
    ),
    "lomiri-wallpapers-16.04": (
        "backgrounds/{}.jpg",
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace "
        "aitzgorri_by_Aitzol_Berasategi life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
        "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi",
    ),
    "lomiri-wallpapers-20.04": ("backgrounds/{}.jpg", "Kleiber_by_Lukas_Baubkus"),
    "mate-backgrounds": (
        "backgrounds/mate/nature/{}.jpg",
        "Aqua Blinds Dune FreshFlower Garden RainDrops Storm TwoWings Wood YellowFlower",
    ),
    "plasma-workspace-wallpapers": (
        "wallpapers/{}/contents/images/2560x1600.jpg",
        "BytheWater ColdRipple DarkestHour EveningGlow Grey OneStandsOut Path summer_1am",
    ),
}


def fetch(folder: Path) -> dict[str, tuple[Image.Image, dict]]:
    """The photographs by name, reduced to `HEIGHT`, and their packages and licences."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for package, (path, names) in DESKTOP_PHOTOGRAPHS.items():
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
        share = folder / package / "usr" / "share"
        copyrights = (share / "doc" / package / "copyright").read_text()
        for name in names.split():
            with Image.open(share / path.format(name)) as file:
                file.thumbnail((10 * HEIGHT, HEIGHT), Image.Resampling.LANCZOS)
                found[name] = to_rgb(file), {"package": archive.stem} | licence(copyrights, path.format(name))
    return found


def licence(copyrights: str, name: str) -> dict[str, str]:
    """Licence and holders of a file by a package's copyright file, of which the last paragraph that fits counts.

    Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    for paragraph in reversed(re.split(r"\n\s*\n", copyrights)):
        fields = message_from_string(paragraph.lstrip())
        if any(pattern == "*" or Path(pattern).name == Path(name).name for pattern in (fields["Files"] or "").split()):
            holders = " ".join(re.sub(r"<\S+>\S?|http\S+", "", fields["Copyright"]).split())
            return {"licence": fields["License"].splitlines()[0], "holders": holders}
    raise ValueError(f"The copyright file does not name `{name}`.")
