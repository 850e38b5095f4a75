"""The page at /: the files of the folder `page/`, which is part of the package."""

from pathlib import Path

from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"


def page_routes() -> list[BaseRoute]:
    """Routes of the page, after all others: `index.html` at /, other files under their names; none without a page."""
    if not (FOLDER / "index.html").is_file():
        return []
    return [Mount("/", StaticFiles(directory=FOLDER, html=True), name="page")]
