"""What the Hub refuses in the YAML front matter of a card, in the words in which it does."""

import re
from collections.abc import Iterator

import yaml


# Of its list those that are common; all are in lower case.
LICENSES = """
    apache-2.0 mit openrail creativeml-openrail-m afl-3.0 bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-3.0 cc-by-4.0
    cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 cdla-permissive-2.0 gpl-2.0 gpl-3.0 lgpl-3.0
    agpl-3.0 isc mpl-2.0 odc-by odbl ofl-1.1 pddl unlicense wtfpl zlib unknown other
""".split()
FRONT_MATTER = re.compile(r"\s*---[ \t]*[\r\n]+(.*?)[\r\n]+---[ \t]*(\r?\n|$)", re.DOTALL)
ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
KINDS = {str: "a string", list: "an array", dict: "of type object"}


class _Loader(yaml.SafeLoader):
    """PyYAML lets a later key replace an earlier one of the same name; the Hub's parser does not."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, "duplicated mapping key", node.start_mark)
        return super().construct_mapping(node, deep)


def card_data(content: str) -> dict:
    """The metadata of a card, empty where it has none that can be read."""
    block = FRONT_MATTER.match(content)
    try:
        data = yaml.load(block[1], _Loader) if block else None
    except yaml.YAMLError:
        data = None
    return data if isinstance(data, dict) else {}


def card_tags(data: dict) -> list[str]:
    """Tags of a repository as the Hub makes them of the metadata of its card."""
    tags = []
    for key, prefix in (
        ("tags", ""),
        ("library_name", ""),
        ("pipeline_tag", ""),
        ("license", "license:"),
        ("datasets", "dataset:"),
        ("base_model", "base_model:"),
    ):
        tags += [f"{prefix}{item}" for _, item in _items(data.get(key, []), key)]
    return list(dict.fromkeys(tags))


def check_card(content: str) -> dict[str, list[dict]]:
    """`errors` and `warnings`, as `/api/validate-yaml` answers them: the card is refused if there are errors."""
    block = FRONT_MATTER.match(content)
    if block is None:
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    try:
        data = yaml.load(block[1], _Loader)
    except yaml.YAMLError as error:
        errors = [f"Invalid YAML in README.md: {error}"]
    else:
        if isinstance(data, list):
            errors = ['"value" must be of type object']
        elif not isinstance(data, dict):
            errors = ["The YAML metadata of your README.md is invalid."]
        else:
            errors = list(_errors(data))
    return {"errors": [{"message": message} for message in errors], "warnings": []}


def _errors(data: dict) -> Iterator[str]:
    for key in ("tags", "metrics"):
        if key in data:
            yield from _field(data, key, list, key)
            for where, item in _items(data[key], key):
                if isinstance(data[key], list) and not isinstance(item, str):
                    yield f'"{where}" must be a string'
    for key, advice in (("base_model", "Use a model id"), ("datasets", "If possible, use a dataset id")):
        for where, item in _items(data.get(key, []), key):
            if not isinstance(item, str):
                yield f'"{where}" must be a string'
            elif not ID.fullmatch(item):
                page = "models" if key == "base_model" else "datasets"
                yield f'"{where}" with value "{item}" is not valid. {advice} from https://hf.co/{page}.'
    for where, item in _items(data.get("license", []), "license"):
        if item not in LICENSES:
            yield f'"{where}" must be one of [{", ".join(LICENSES)}]'
    if "model-index" in data:
        yield from _field(data, "model-index", list, "model-index")
        for where, model in _mappings(data["model-index"], "model-index"):
            yield from _field(model, "name", str, f"{where}.name")
            yield from _field(model, "results", list, f"{where}.results")
            for place, result in _mappings(model.get("results"), f"{where}.results"):
                yield from _result(result, place)


def _result(result: dict, where: str) -> Iterator[str]:
    for key, needed, optional in (("task", ["type"], ["name"]), ("dataset", ["type", "name"], ["config", "split"])):
        yield from _field(result, key, dict, f"{where}.{key}")
        if isinstance(result.get(key), dict):
            for name in needed + [name for name in optional if name in result[key]]:
                yield from _field(result[key], name, str, f"{where}.{key}.{name}")
    yield from _field(result, "metrics", list, f"{where}.metrics")
    for place, metric in _mappings(result.get("metrics"), f"{where}.metrics"):
        yield from _field(metric, "type", str, f"{place}.type")
        if metric.get("value") is None:
            yield f'"{place}.value" is required'


def _field(owner: dict, key: str, kind: type, where: str) -> Iterator[str]:
    if owner.get(key) is None:
        yield f'"{where}" is required'
    elif not isinstance(owner[key], kind):
        yield f'"{where}" must be {KINDS[kind]}'


def _items(value: object, where: str) -> list[tuple[str, object]]:
    """The items of a list, or the value itself, each with its place."""
    if isinstance(value, list):
        return [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    return [(where, value)]


def _mappings(value: object, where: str) -> list[tuple[str, dict]]:
    """The items of a list with their places; one that is no mapping counts as empty, so that its fields are missing."""
    items = _items(value, where) if isinstance(value, list) else []
    return [(place, item if isinstance(item, dict) else {}) for place, item in items]
