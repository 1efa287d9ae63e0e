"""Cut objects of ten kinds out of photographs, for the sets `photo-…` of experiments/benchmarks/improve.py.

    python -m experiments cut_objects --imagen imagen --samples samples --isnet isnet.onnx \
        --output_dir runs/improve/objects

Photographs and ISNet are those of real_photographs.py. Each object is a PNG with alpha,
`<split>/<kind>/<photograph>.png`, at most 160 pixels long. `test` has every third photograph of a kind, `validation`
every sixth, and `train` the others. Contact sheets of all objects are written next to them. We looked at the sheets:
the photographs in `LEFT_OUT` show no whole object of the kind, or their mask is wrong.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from robust_vit_hf.data.classes import wnids
from robust_vit_hf.masks.background_remover import background_remover
from robust_vit_hf.utils.images import save_picture_grid, upright_image

from ..scripts import script_parser


# Of each kind: classes of ImageNet by number, of all of which there is a photograph, and further synsets, of which
# there are five.
OBJECT_KINDS: dict[str, tuple[list[int], str]] = {
    "bird": ([*range(7, 25), *range(80, 101), *range(127, 147)], "n01503061"),
    "cat": ([*range(281, 294)], "n02121808"),
    "dog": ([*range(151, 269, 2)], "n02084071"),
    "fish": ([*range(7), *range(389, 398)], "n01495701"),
    "fruit or vegetable": ([*range(936, 958)], "n07739125 n07745940 n07747607 n07749582"),
    "hoofed animal": ([*range(339, 355)], "n02374451 n02402425 n02411705 n02419796"),
    "insect": ([*range(300, 327)], "n02206856 n02274259"),
    "monkey": ([*range(365, 385)], "n02484322"),
    "reptile": ([*range(33, 69)], "n01662784 n01674464 n01726692"),
    "vehicle": (
        [407, 408, 436, 468, 511, 555, 569, 609, 627, 654, 656, 661, 675, 717, 734, 751, 757, 779, 817, 864, 867, 874],
        "n02924116 n02958343",
    ),
}  # fmt: skip
LEFT_OUT = """
n01503061_17069_bird n01534433_junco n01616318_vulture n01798484_prairie_chicken n02013706_limpkin n02129165_19260_lion
n02129604_4493_tiger n02124075_Egyptian_cat n02084071_20959_dog n02088466_bloodhound n02089078_black-and-tan_coonhound
n02091635_otterhound n02093859_Kerry_blue_terrier n02097298_Scotch_terrier n02098286_West_Highland_white_terrier
n02099267_flat-coated_retriever n02102040_English_springer n02105641_Old_English_sheepdog n02108422_bull_mastiff
n02111129_Leonberg n02111500_Great_Pyrenees n02112350_keeshond n01443537_4691_goldfish n01484850_great_white_shark
n01494475_hammerhead n02514041_barracouta n02536864_coho n02640242_sturgeon n02641379_gar n02643566_lionfish
n07714571_9845_head_cabbage n07718472_1187_cucumber n07718472_10383_cucumber n07739125_11694_apple
n07718747_8558_artichoke n07714571_head_cabbage n07730033_cardoon n02374451_14319_horse n02374451_16531_horse
n02391049_8140_zebra n02398521_21001_hippopotamus n02402425_38546_cattle n02411705_3019_sheep n02411705_56_sheep
n02419796_9300_antelope n02395406_hog n02396427_wild_boar n02437312_Arabian_camel n02206856_5952_bee
n02219486_21998_ant n02274259_379_butterfly n02219486_ant n02231487_walking_stick n02281787_lycaenid
n02484322_11526_monkey n02480855_gorilla n02484975_guenon n02492660_howler_monkey n01688243_frilled_lizard
n01694178_African_chameleon n01697457_African_crocodile n01704323_triceratops n02704792_amphibian n02930766_cab
n03417042_garbage_truck n03777568_Model_T
""".split()
SIDE = 160
SHARES = (0.04, 0.8)  # least and largest share of a photograph that an object covers
SPLITS = ("test", "validation", "train", "test", "train", "train")


def photographs(kind: str, imagen: Path, samples: Path) -> list[Path]:
    numbers, further = OBJECT_KINDS[kind]
    of_kind = {*(wnids()[number] for number in numbers), *further.split()}
    files = (
        sorted(path for wnid in of_kind for path in of.rglob(f"{wnid}_*.[Jj][Pp]*[Gg]")) for of in (imagen, samples)
    )
    return [path for of_source in files for path in of_source if path.stem not in LEFT_OUT]


def objects(folder: Path, split: str) -> list[list[Path]]:
    """Files of a split, by kind."""
    return [sorted((folder / split / kind).glob("*.png")) for kind in OBJECT_KINDS]


def cut(paths: list[Path], remover) -> Iterator[tuple[Path, Image.Image]]:
    """Objects of photographs that show one, cropped."""
    for path in paths:
        try:
            image = upright_image(path)
        except OSError:
            continue
        image.thumbnail((400, 400))
        (result,) = remover([image], [{}])
        if result.mask is not None and SHARES[0] < (np.asarray(result.mask) > 0).mean() < SHARES[1]:
            image.putalpha(result.mask.convert("L"))
            image = image.crop(image.getchannel("A").getbbox())
            image.thumbnail((SIDE, SIDE))
            yield path, image


def main() -> None:
    parser = script_parser(__doc__)
    for name in ("imagen", "samples", "isnet", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    remover, folder = background_remover(str(arguments.isnet)), arguments.output_dir
    for kind in tqdm(OBJECT_KINDS):
        shown = []
        for number, (path, image) in enumerate(cut(photographs(kind, arguments.imagen, arguments.samples), remover)):
            place = folder / SPLITS[number % len(SPLITS)] / kind / f"{path.stem}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.save(place)
            sheet = Image.new("RGB", (SIDE, SIDE), "magenta")
            sheet.paste(image, (0, 0), image)
            shown.append((path.stem, np.asarray(sheet)))
        save_picture_grid([shown[first : first + 10] for first in range(0, len(shown), 10)], folder / f"{kind}.png")
