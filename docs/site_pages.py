"""A hook of mkdocs: puts pages from outside of docs, such as the README, on the site, and points links at them.

Links in the sources are those of the repository, where they work in a checkout and in a code browser. A page's links
are rewritten when it is rendered, so that `mkdocs build --strict` checks every one.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Path in the repository -> path on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "bark_jax/tiny/model/README.md": "tiny.md",
    "bark_jax/tiny/model/samples.png": "samples.png",
}
_INSIDE = {site: path for path, site in OUTSIDE.items()}

_CODE = r"^( *)```.*?^\1```$|`[^`\n]*`"
# Code is matched first and left alone. A target has no spaces, and no title behind it.
_LINK = re.compile(rf"{_CODE}|\]\((?P<target>[^()\s]+)\)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the files of OUTSIDE, and of the examples, as if they were in docs."""
    examples = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*.py")}
    for path, site in {**OUTSIDE, **{path: path for path in examples}}.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the page's links from paths in the repository to paths on the site."""
    site_path = page.file.src_uri
    path = _INSIDE.get(site_path, f"docs/{site_path}")

    def rewrite(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or re.match(r"[a-z]+:|#", target):
            return match[0]
        file, hash_sign, anchor = target.partition("#")
        found = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        found = OUTSIDE.get(found, found.removeprefix("docs/"))
        return f"]({posixpath.relpath(found, posixpath.dirname(site_path) or '.')}{hash_sign}{anchor})"

    return _LINK.sub(rewrite, markdown)
