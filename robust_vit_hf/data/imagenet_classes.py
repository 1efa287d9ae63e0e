"""The 1000 classes of ImageNet-1k and subsets of them, from timm's lists, joined on the wnid (WordNet id).

English names are not unique: two classes are called "crane", and two "maillot".
"""

from collections.abc import Sequence
from functools import cache

from ..utils.environment import install_command, package_file


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


def are_named_as_imagenet(names: Sequence[str]) -> bool:
    """Whether names are those of ImageNet-1k in its order. Spellings and synonyms vary, so half must match. Less than 1 % may
    be names of other classes (projectiles are called missile too), if their own names are nowhere: classes are not swapped."""
    if len(names) != 1000:
        return False
    if tuple(names) == wnids():
        return True
    known = [name.lower() for name in class_names()]
    first = [name.split(",")[0].strip().lower() for name in names]
    misplaced = [right for name, right in zip(first, known, strict=True) if name != right and name in known]
    swapped = {*misplaced} & {*first}
    return not swapped and len(misplaced) < 10 and sum(map(str.__eq__, first, known)) >= 500
