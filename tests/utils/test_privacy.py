"""Names that tell nothing of the machine."""

from pathlib import Path

from robust_vit_hf.utils.privacy import is_hub_id, public_name, public_settings


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "set").mkdir(parents=True)
    for name in (f"{tmp_path}/runs/best/", "../home/x/best", "a/b/best", "~/best", "C:\\Users\\x\\best"):
        assert public_name(name) == "best" and not is_hub_id(name)
    assert public_name("data/set") == "set" and public_name(".") == tmp_path.name
    for name in ("google/vit-base-patch16-224", "timm/vit.in1k", "emoji-shift", "cosine", "train[:80%]"):
        assert public_name(name) == name
    folders = {"output_dir": "runs/a", "logging_dir": "runs/b", "cache_dir": Path("data/c")}
    assert public_settings(folders) == {"output_dir": "a", "logging_dir": "b", "cache_dir": "c"}
    nested = {"sets": [("a", "../x/b"), ("c", None)], "output_dir": "runs/d", "epochs": 3, "path": Path("../x/e")}
    assert public_settings(nested) == {"sets": [["a", "b"], ["c", None]], "output_dir": "d", "epochs": 3, "path": "e"}
