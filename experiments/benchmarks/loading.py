"""Images per second of each loader, compared with only decoding, and the memory of a streamed pass over 100,000 rows.

    python -m experiments loading         # writes experiments/benchmarks/loading.json

Both sides run in a `DataLoader` with as many workers as cores, and decode to RGB within the workers, so that no pixels
travel between processes. Decoding alone reads the same files, or takes the same arrays out of the same HDF5 file, with
Pillow and nothing else. The two take turns; the ratios are medians over the rounds. Images are photographs that come with
scikit-image, 500×375 pixels as in ImageNet.
"""

import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import datasets
import h5py
import numpy as np
import psutil
import skimage.data
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from robust_vit_hf import load_image_set
from robust_vit_hf.data.classes import subset, wnids
from robust_vit_hf.data.layouts.official import LABELS
from robust_vit_hf.utils.files import write_atomically
from tests.helpers import layouts

from ..scripts import script_parser


OUTPUT = Path(__file__).with_suffix(".json")
NUM_WORKERS = os.cpu_count()
PHOTOGRAPHS = ("astronaut", "coffee", "rocket")


def photographs(count: int) -> list[Image.Image]:
    """Crops of 500×375 pixels of photographs."""
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    rng = np.random.default_rng(0)
    corners = [(rng.integers(0, 13), rng.integers(0, 26)) for _ in range(count)]
    return [sources[index % len(sources)].crop((x, y, x + 500, y + 375)) for index, (x, y) in enumerate(corners)]


def class_folders(root: Path, names: list[str], images: list[Image.Image], suffix: str = ".JPEG") -> Path:
    for index, image in enumerate(images):
        layouts.save(image, root / names[index % len(names)] / f"{index}{suffix}")
    return root


def make_sets(root: Path, images: list[Image.Image]) -> dict[str, Path]:
    """All layouts, at `root`."""
    sets = {
        "imagenet-1k": class_folders(root / "1k" / "val", list(wnids()[:20]), images).parent,
        "imagenet-a": class_folders(
            root / "a", [wnids()[label] for label in subset("imagenet-a")[:20]], images, ".jpg"
        ),
        "imagenet-v2": class_folders(root / "v2", list(map(str, range(20))), images, ".jpeg"),
        "si-score-rotation": class_folders(root / "si", list(LABELS)[:20], images, ".jpg"),
        "objectnet": layouts.objectnet(root / "objectnet"),
        "imagenet-r (webdataset)": layouts.webdataset(
            root / "r", [(f"s{index:06d}", image, index % 200) for index, image in enumerate(images)], "jpg", 50
        ),
        "imagenet-segmentation": root,
        "imagenet-s919": root / "s",
    }
    class_folders(root / "objectnet" / "images", ["plunger", "chair"], images[: len(images) // 4], ".png")
    mask = np.zeros((375, 500), dtype=np.uint8)
    mask[100:300, 100:400] = 1
    layouts.segmentation_mat(root / "gtsegs_ijcv.mat", [(np.asarray(image), mask) for image in images])
    for index, image in enumerate(images):
        name = wnids()[index % 20]
        layouts.save(image, root / "s" / "train-semi" / name / f"{name}_{index}.JPEG")
        values = np.where(mask, index % 20 + 1, 0)
        layouts.save(layouts.coded_mask(values), root / "s" / "train-semi-segmentation" / name / f"{name}_{index}.png")
    return sets


class DecodeFiles(Dataset):
    """Decoding alone: image files, each with the file of its mask if it has one."""

    def __init__(self, files: list[tuple[Path, ...]]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> int:
        return sum(Image.open(path).convert("RGB").width for path in self.files[index])


class DecodeMat(Dataset):
    """Decoding alone: images and masks of the MATLAB file as Pillow images."""

    def __init__(self, path: Path, count: int):
        self.path, self.count, self.file = path, count, None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.file = self.file or h5py.File(self.path)
        image = self.file[self.file["/value/img"][index, 0]][()].transpose(2, 1, 0)
        mask = self.file[self.file[self.file["/value/gt"][index, 0]][0, 0]][()].transpose(1, 0)
        pictures = Image.fromarray(np.ascontiguousarray(image)), Image.fromarray(np.ascontiguousarray(mask))
        return sum(picture.convert("RGB").width for picture in pictures)


def decode_rows(rows: list[dict]) -> list[int]:
    """What a worker does with the rows of a loader: decode all pictures, send back a number."""
    return [sum(row[key].convert("RGB").width for key in ("image", "mask") if key in row) for row in rows]


def images_per_second(dataset, collate=None) -> float:
    """Of a second pass, when the workers have started."""
    loader = DataLoader(dataset, 32, num_workers=NUM_WORKERS, collate_fn=collate, persistent_workers=True)
    for _ in loader:
        pass
    start = time.perf_counter()
    count = sum(len(batch) for batch in loader)
    return count / (time.perf_counter() - start)


def decoding_alone(name: str, source: Path) -> Dataset:
    if name == "imagenet-segmentation":
        with h5py.File(source / "gtsegs_ijcv.mat") as file:
            return DecodeMat(source / "gtsegs_ijcv.mat", len(file["/value/img"]))
    if name == "imagenet-s919":
        masks = sorted((source / "train-semi-segmentation").rglob("*.png"))
        return DecodeFiles([(source / "train-semi" / mask.parent.name / f"{mask.stem}.JPEG", mask) for mask in masks])
    return DecodeFiles(
        [(path,) for path in sorted(source.rglob("*")) if path.suffix in (".JPEG", ".jpg", ".jpeg", ".png")]
    )


def measure_loaders(count: int, rounds: int) -> dict[str, dict[str, float]]:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = f"{folder}/cache"
        sets = make_sets(Path(folder), photographs(count))
        for name, source in tqdm(sets.items(), desc="loaders"):
            if "webdataset" in name:  # the same images as files
                alone = decoding_alone("imagenet-1k", sets["imagenet-1k"])
            else:
                alone = decoding_alone(name, source)
            loaders = {
                mode: load_image_set(name.split()[0], source, streaming=mode == "stream")
                for mode in ("table", "stream")
            }
            rates = {kind: [] for kind in ("alone", *loaders)}
            for _ in range(rounds + 1):
                rates["alone"].append(images_per_second(alone))
                for mode, loader in loaders.items():
                    rates[mode].append(images_per_second(loader, decode_rows))
            rows[name] = {
                mode: round(
                    statistics.median(a / b for a, b in zip(rates[mode][1:], rates["alone"][1:], strict=True)), 3
                )
                for mode in loaders
            }
            rows[name]["decoding alone, images/s"] = round(statistics.median(rates["alone"][1:]))
    return rows


def measure_memory(num_rows: int) -> dict[str, float]:
    """Memory of a streamed pass over the location set of SI-Score, with its metadata, after each tenth of it."""
    with tempfile.TemporaryDirectory() as folder:
        names = list(LABELS)[:61]
        root = Path(folder) / "location20_area02_min0pc"
        content = layouts.save(layouts.picture(0, (32, 32)), Path(folder) / "image.jpg").read_bytes()
        lines = [",".join(layouts.SI_SCORE_HEADER)]
        for name in names:
            (root / name).mkdir(parents=True)
        for index in tqdm(range(num_rows), desc="writing images"):
            (root / names[index % len(names)] / f"{index}.jpg").write_bytes(content)
            lines.append(f"{index},0.5,0.5,0.2,0,0,0,0,500,500,1.0")
        (root / "metadata.csv").write_text("\n".join(lines))
        stream = load_image_set("si-score-location", folder, streaming=True)
        process, memory = psutil.Process(), {}
        for index, row in enumerate(tqdm(stream, desc="streaming", total=num_rows), start=1):
            row["image"].convert("RGB")
            if index % (num_rows // 10) == 0:
                memory[str(index)] = round(process.memory_info().rss / 2**20, 1)
    return memory


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--images", type=int, default=1000, help="images of each set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streamed_rows", type=int, default=100_000)
    arguments = parser.parse_args()
    results = {
        "device": f"{os.cpu_count()} CPU cores",
        "workers": NUM_WORKERS,
        "images": arguments.images,
        "rounds": arguments.rounds,
        "loader / decoding alone": measure_loaders(arguments.images, arguments.rounds),
    }
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
        memory = fresh_process.submit(measure_memory, arguments.streamed_rows).result()
    results["MiB after so many streamed rows"] = memory
    text = json.dumps(results, indent=2)
    print(text)
    write_atomically(OUTPUT, text + "\n")
