"""Files and folders that are complete or absent."""

import pytest

from robust_vit_hf.utils.files import atomic_file, atomic_folder, read_json, write_atomically


def test_two_writers_of_one_file(tmp_path):
    """Even of processes with one number, on machines that share the folder; an error leaves nothing."""
    with atomic_file(tmp_path / "a") as one, atomic_file(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
    with pytest.raises(OSError, match="full"), atomic_file(tmp_path / "a") as partial:
        partial.write_text("half")
        raise OSError("full")
    with pytest.raises(UnicodeEncodeError):  # after the file is open
        write_atomically(tmp_path / "a", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "one"


def test_a_full_disk_names_the_file(tmp_path):
    """Libraries that write to an open file do not."""
    for told, expected in (
        ("[Errno 28] No space left on device", "`.*/results.json` could not be written"),
        ("x", "^x$"),
    ):
        with pytest.raises(OSError, match=expected), atomic_file(tmp_path / "results.json"):
            raise OSError(told)
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_json_object(tmp_path):
    assert read_json(tmp_path / "run.json") is None
    for text in ('{"a": ', "[1]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json` is not a JSON object, or is cut off"):
            read_json(tmp_path / "run.json")


def test_a_folder_behind_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to("scratch")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "scratch" / "a").is_file()
