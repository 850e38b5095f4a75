"""Takes paths and the names of users out of a report, so that it can be posted as it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_CHARACTERS = 600  # of a text; a compiler's error can have megabytes

# An absolute path, or one of a home folder, with at least two parts. Not a part of a URL or of a word with slashes.
_PATH = re.compile(r"(?<![\w.:/~-])(?:~[\w.-]*)?/(?:[^\s/'\"`<>|]+/)+([^\s/'\"`<>|,;:)\]]*)")
_HOME = re.compile(r"/(?:home|Users)/[^\s/'\"`<>|,;:)\]]+(?![^\s'\"`<>|,;:)\]])")


def without_paths(value: Any, names: Mapping[str, str]) -> Any:
    """Returns values for JSON with every path in a text cut to its last part: "/home/joe/a.npz" becomes ".../a.npz".

    Args:
      value: a text, number, list or dict, of any depth; keys of dicts are changed too.
      names: known paths and what to write for each; they may have spaces, which ends a path elsewhere.
    """
    if isinstance(value, str):
        return _cut(value, names)
    if isinstance(value, Mapping):
        return {_cut(str(key), names): without_paths(each, names) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(each, names) for each in value]
    return value


def _cut(text: str, names: Mapping[str, str]) -> str:
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    text = text.replace(str(Path.home()), "~") if str(Path.home()) != "/" else text
    text = _PATH.sub(lambda match: f".../{match[1]}", _HOME.sub("~", text))
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " ..."
