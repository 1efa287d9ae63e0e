"""The 1000 classes of ImageNet-1k and subsets of them, from timm's lists, joined on the wnid (WordNet id).

English names are not unique: two classes are called "crane", and two "maillot".
"""

from functools import cache

from ..utils.install import install_command, package_file


@cache
def timm_list(file_name: str) -> str:
    """Read a class list of timm, such as `imagenet_synsets.txt`."""
    return package_file("timm", "data", "_info", file_name, install=install_command("data")).read_text()


@cache
def wnids() -> tuple[str, ...]:
    """The 1000 sorted wnids; the position is the label."""
    return tuple(timm_list("imagenet_synsets.txt").split())


@cache
def label_of_wnid() -> dict[str, int]:
    """Label 0–999 of each wnid."""
    return {wnid: label for label, wnid in enumerate(wnids())}


@cache
def class_names() -> tuple[str, ...]:
    """First English name of each class, such as "tench". Two classes may share a name."""
    lemmas = dict(line.split("\t") for line in timm_list("imagenet_synset_to_lemma.txt").splitlines())
    return tuple(lemmas[wnid].split(",")[0] for wnid in wnids())


@cache
def subset(name: str) -> tuple[int, ...]:
    """Labels 0–999 of the 200 classes of `"imagenet-a"` or `"imagenet-r"`, in the order of the set's labels 0–199."""
    return tuple(map(int, timm_list(f"{name.replace('-', '_')}_indices.txt").split()))
