"""The notebook runs as it stands on the built-in voice, and the text outputs stored in it are those of such a run."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "text_to_audio.ipynb"
MAX_BYTES = 1_500_000
# Another CPU rounds otherwise, which can turn a draw: seconds and log-probabilities then differ a little.
NUMBERS = dict(rel=0.05, abs=0.05)


@pytest.fixture(scope="module")
def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_it_is_stored_small_and_without_what_a_machine_leaves(code_cells):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    for cell in code_cells:
        assert cell["metadata"] == {}, cell["source"]
        kinds = [(output["output_type"], output.get("name")) for output in cell["outputs"]]
        assert {*kinds} <= {("stream", "stdout"), ("display_data", None), ("execute_result", None)}, cell["source"]
    outputs = [stored_text(output) for cell in code_cells for output in cell["outputs"]]
    assert not re.search(r"/(home|root|tmp|usr|work|Users)/", "\n".join(outputs))


@pytest.mark.slow
def test_its_cells_run_in_order_and_print_what_is_stored(code_cells, built_in, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr("bark_jax.tiny.FOLDER", built_in)
    monkeypatch.chdir(tmp_path)
    printed, stored = [], []
    try:
        variables = {"display": lambda *values: printed[-1].extend(map(displayed_text, values))}
        for number, cell in enumerate(code_cells):
            printed.append([])
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                run_cell("".join(cell["source"]), f"cell {number}", variables)
            printed[-1].insert(0, stdout.getvalue())
            stored.append("\n".join(sorted(text for text in map(stored_text, cell["outputs"]) if text)))
        n_figures = len(pyplot.get_fignums())
    finally:
        pyplot.close("all")
    assert n_figures == 2
    assert {path.name for path in tmp_path.iterdir()} == {"found.npz", "story.flac", "story.png"}
    for cell_printed, cell_stored in zip(printed, stored, strict=True):
        same_text("\n".join(sorted(text for text in cell_printed if text)), cell_stored)


def same_text(found, expected):
    """Asserts that two texts are equal but for numbers, which may differ by rounding."""
    number = r"-?\d+\.\d+"
    assert re.sub(number, "#", found) == re.sub(number, "#", expected)
    found_numbers, expected_numbers = (list(map(float, re.findall(number, text))) for text in (found, expected))
    assert found_numbers == pytest.approx(expected_numbers, **NUMBERS), (found, expected)


def stored_text(output):
    """Returns the text of a stored output: what was printed, or the repr of what was displayed; "" for figures."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    return "" if "image/png" in output["data"] else "".join(output["data"]["text/plain"])


def displayed_text(value):
    """Makes what Jupyter would put below the cell, and returns its text; "" for figures."""
    if hasattr(value, "_repr_png_"):
        assert value._repr_png_().startswith(b"\x89PNG")
        return ""
    assert value._repr_html_().startswith("<audio")
    return repr(value)


def run_cell(source: str, name: str, variables: dict) -> None:
    """Runs a cell as Jupyter does: a last line that is an expression is displayed."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), variables)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), variables)
        if value is not None:
            variables["display"](value)
