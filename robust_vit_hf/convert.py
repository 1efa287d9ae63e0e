"""Convert ViT and DeiT weights of timm to model folders of transformers, and back, bit for bit.

python -m robust_vit_hf.convert timm/vit_base_patch16_224.augreg_in21k_ft_in1k models/augreg-base
python -m robust_vit_hf.convert checkpoint.pth.tar models/ours --image_size 384
python -m robust_vit_hf.convert models/augreg-base models/augreg-base-timm --to timm
"""

import argparse
import json
import sys
from pathlib import Path

from safetensors.torch import save_file
from transformers import AutoImageProcessor

from .files import whole_folder
from .models import ZOO, load_whole
from .timm_files import STATISTICS, load_timm, native_processor, timm_config
from .timm_weights import from_timm, hf_to_timm, timm_to_hf
from .transforms import make_image_processor


__all__ = ["from_timm", "hf_to_timm", "load_timm", "timm_to_hf"]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m robust_vit_hf.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="file of weights, checkpoint, folder, Hub id, or name of a model of the paper")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--to", choices=["hf", "timm"], default="hf", help="format of the output (default: hf)")
    parser.add_argument("--image_size", type=int, help="another side of the images: interpolate position embeddings")
    parser.add_argument("--num_heads", type=int, help="attention heads, for weights of an unusual size")
    parser.add_argument("--preset", choices=["paper", "native"], help="image processor to save (default: paper)")
    parser.add_argument(
        "--statistics",
        choices=list(STATISTICS),
        help="mean and standard deviation of the native preset, or of timm's configuration, where the source states none",
    )
    return parser


def main(argv: list[str]) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    source = ZOO.get(arguments.source, arguments.source)
    output, statistics = arguments.output, arguments.statistics
    if arguments.to == "timm" and (arguments.image_size or arguments.num_heads or arguments.preset):
        parser.error("--image_size, --num_heads and --preset do not go with --to timm")
    if arguments.to == "hf" and statistics and arguments.preset != "native":
        parser.error("--statistics goes with --preset native; the paper's preset has its own")

    with whole_folder(output) as folder:
        if arguments.to == "hf":
            weights, config = load_timm(source)
            model = timm_to_hf(weights, config, image_size=arguments.image_size, num_heads=arguments.num_heads)
            native = native_processor(config, statistics) if arguments.preset == "native" else None
            processor = make_image_processor(arguments.preset or "paper", model.config.image_size, native)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        else:
            model = load_whole(source, dtype="auto")
            weights = hf_to_timm(model)
            if statistics:
                processor = make_image_processor("native", model.config.image_size, native_processor(None, statistics))
            else:
                try:
                    processor = AutoImageProcessor.from_pretrained(source)
                except OSError as error:
                    raise ValueError(
                        f"`{source}` has no image processor: give `--statistics imagenet` or `half` for the native preset."
                    ) from error
            config = timm_config(model, processor)
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    print(f"{output}: {model.num_parameters():,} parameters of {type(model).__name__}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
