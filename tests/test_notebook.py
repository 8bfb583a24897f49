"""The notebook of examples/ runs from its first cell to its last."""

import os
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "keep_98.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_ends_with_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # Cells type `!secura`, which is installed beside this Python, whether or not its environment is activated.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=800, record_timing=False, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "of what the base answered right it still answers right" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "Q: What is 2 plus 5? A:" in printed
    # Where somebody asks for it, what was just seen becomes what a reader sees.
    if os.environ.get("SECURA_WRITE_NOTEBOOK"):
        nbformat.write(book, NOTEBOOK)
