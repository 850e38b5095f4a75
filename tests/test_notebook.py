"""The notebook runs without changes on the built-in model, and is stored without outputs."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "text_to_audio.ipynb"


@pytest.fixture(scope="module")
def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs(code_cells):
    assert code_cells
    for cell in code_cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None and cell["metadata"] == {}, cell["source"]


@pytest.mark.slow
def test_its_cells_run_in_order(code_cells, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    displayed = []
    variables = {"display": lambda *values: displayed.extend(show(value) for value in values)}
    try:
        for number, cell in enumerate(code_cells):
            run_cell("".join(cell["source"]), f"cell {number}", variables)
        n_figures = len(pyplot.get_fignums())
    finally:
        pyplot.close("all")
    assert displayed.count("player") >= 9 and displayed.count("picture") == 2 and n_figures == 2
    assert {path.name for path in tmp_path.iterdir()} == {"found.npz", "story.wav", "story.png"}


def run_cell(source: str, name: str, variables: dict) -> None:
    """Runs a cell as Jupyter does: a last line that is an expression is displayed."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), variables)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), variables)
        if value is not None:
            variables["display"](value)


def show(value) -> str:
    """Makes what Jupyter would put below the cell, and says what it is."""
    if hasattr(value, "_repr_png_"):
        assert value._repr_png_().startswith(b"\x89PNG")
        return "picture"
    assert value._repr_html_().startswith("<audio")
    return "player"
