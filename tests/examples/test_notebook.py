"""The notebook runs from its top to its bottom."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

EXAMPLES = Path(__file__).parents[2] / "examples"


# The kernel's own libraries, not what the notebook does.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    # In a copy, for it writes a picture beside itself.
    shutil.copy(EXAMPLES / "voice.wav", tmp_path)
    notebook = nbformat.read(EXAMPLES / "speech_as_tokens.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    printed = [o["text"] for cell in notebook.cells for o in cell.get("outputs", []) if "text" in o]
    assert any("the same codes" in text for text in printed)
    assert (tmp_path / "voice.png").exists()
