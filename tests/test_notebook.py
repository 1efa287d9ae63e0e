"""The notebook runs from top to bottom, offline, and shows what it announces.

`python -m tests.test_notebook` runs it and writes what it shows into it, without progress bars.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from nbclient import NotebookClient


# Settings of the notebook, in the cell that is tagged `parameters`; as committed, it takes minutes.
SMALL = "IMAGES_PER_SET, EPOCHS, SAMPLES_PER_CLASS = 8, 1, 1"
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def execute(path: Path, folder: Path, settings: str | None = None) -> nbformat.NotebookNode:
    """The notebook after a run in `folder`, with other settings if there are any."""
    notebook = nbformat.read(path, as_version=4)
    if settings is not None:
        (place,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path):
    committed = nbformat.read(path, as_version=4)
    nbformat.validate(committed)
    run = execute(path, tmp_path, SMALL)
    outputs = [output for cell in run.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(str(output.get("text", "")) + str(output.get("data", "")) for output in outputs)
    assert "val: " in text and "| background_random | 8 |" in text and "BG-Gap" in text
    assert text.count("image/png") == 3
    assert (tmp_path / "runs" / "notebook" / "model.safetensors").is_file()
    assert "# notebook" in (tmp_path / "runs" / "notebook" / "README.md").read_text()

    # What is committed was run, in order, and shows no path of a machine.
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "/home/" not in path.read_text() and "site-packages" not in path.read_text()


if __name__ == "__main__":
    for path in NOTEBOOKS:
        with TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of the run
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
