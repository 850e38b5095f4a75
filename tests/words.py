"""Finds what a reader stumbles over: docstrings without shapes or errors, fragments, words of no field.

python tests/words.py [FILE or FOLDER ...]    prints every fault; the default is all that tests/test_words.py holds
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CODE = ("bark_jax", "converters", "benchmarks")
PROSE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bark_jax/tiny/model/README.md",
    "benchmarks/RESULTS.md",
    "docs",
    "examples",
)

# A first word that makes a fragment of a docstring or a help text, or a riddle.
_FRAGMENTS = "as by for how if in of on one ones that those to until what when where which who with"
FRAGMENTS = frozenset(_FRAGMENTS.split())
FRAGMENTS_OF_DOCSTRINGS = frozenset(["how", "of", "one", "ones", "that", "those", "what", "where", "which", "who"])
# Parts of names that say nothing, or say it in no field's term.
VAGUE_NAMES = frozenset(["told", "shown", "judge", "judges", "whole", "place", "places", "most", "fewest", "picture"])
# Phrases of prose, each with what to write instead.
VAGUE_PHRASES = {
    r"has (?:that )?\w+ (?:has|have) not": "say what it adds",
    r"(?<!un)told(?! apart| stories)": "reported, printed, listed",
    r"tells? (?:whether|what|which|where|how)": "reports, prints, says",
    r"strangers?'?": "untrusted files, other people's code",
    r"whole or not at all": "atomically",
    r"as (?:it|they) lies?": "in its layout, as stored",
    r"in any company|in no company": "whatever else is in the batch",
    r"unasked(?: for)?": "not requested",
    r"needs? it not": "does not need it",
    r"not there yet": "known limits",
    r"g(?:o|oes|oing|one) on(?= with\b|[.,;:]|$)": "continues, resumes",
    r"the same again": "re-run the command",
    r"anew": "again",
    r"dear(?:er|est)?": "slow, expensive, costly",
    r"pictures?": "figures, plots",
    r"way out": "remedy",
    r"talk": "diagnostics, messages",
    r"of its own accord": "by itself",
    r"lets? no one": "say who is refused",
    r"thereof|wherein|whereof|aught|naught": "plain words",
}
_PHRASES = [
    (re.compile(rf"\b(?:{pattern})(?!\w)", re.IGNORECASE), instead) for pattern, instead in VAGUE_PHRASES.items()
]

_ARRAY = re.compile(r"(?:jax\.Array|np\.ndarray|Array\b|ndarray)")
_SHAPE = re.compile(r"\[[A-Za-z_0-9,.* +/()-]*\]|_[A-Z]{1,4}\b|shape|scalar")
_SUFFIX = re.compile(r"_[A-Z0-9]{1,4}$")
_CHECKS = re.compile(r"_?check_\w+|require|refuse")
# Strings of these files are data, not prose: the grammar that the built-in voice learns.
DATA = ("bark_jax/training/recipes/tiny_voice/texts.py",)


class Fault(NamedTuple):
    where: str  # "bark_jax/model.py:40"
    kind: str
    what: str


def code_files(roots: tuple[str, ...] = CODE) -> list[Path]:
    return [path for root in roots for path in sorted((ROOT / root).rglob("*.py"))]


def prose_files() -> list[Path]:
    paths = [ROOT / name for name in PROSE]
    return [
        file for path in paths for file in (sorted(path.rglob("*.md")) if path.is_dir() else [path]) if file.exists()
    ]


def code_faults(path: Path) -> Iterator[Fault]:
    """All faults of a Python file but those of its names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node) or ""
            if _first_word(text) in FRAGMENTS_OF_DOCSTRINGS:
                yield Fault(f"{where}:{getattr(node, 'lineno', 1)}", "fragment", text.splitlines()[0][:70])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and where not in DATA:
            for phrase, instead in _vague(node.value):
                yield Fault(f"{where}:{node.lineno}", "phrase", f"{phrase!r}: {instead}")
    for node, name in _public(tree.body):
        text = ast.get_docstring(node) or ""
        at = f"{where}:{node.lineno}"
        if not text and not _is_obvious(node):
            yield Fault(at, "no docstring", name)
        if isinstance(node, ast.FunctionDef):
            if _lacks_shapes(node, text):
                yield Fault(at, "no shape", name)
            if _raises(node) and "aises" not in text and "Error" not in text:
                yield Fault(at, "no Raises", name)


def name_faults(path: Path) -> Iterator[Fault]:
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        if name and not name.startswith("test_") and VAGUE_NAMES & _parts(name):
            yield Fault(f"{where}:{node.lineno}", "name", name)


def prose_faults(path: Path) -> Iterator[Fault]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for phrase, instead in _vague(line):
            yield Fault(f"{path.relative_to(ROOT).as_posix()}:{number}", "phrase", f"{phrase!r}: {instead}")


def help_faults() -> Iterator[Fault]:
    """Faults of the command line's help, walked through click."""
    import click

    from bark_jax.cli import main

    def walk(command: click.Command, name: str) -> Iterator[Fault]:
        if not (command.help or "").strip():
            yield Fault(name, "no help", name)
        for param in command.params:
            if not isinstance(param, click.Option) or param.hidden:
                continue
            text = (param.help or "").strip()
            option = f"{name} {max(param.opts, key=len)}"
            if not text:
                yield Fault(option, "no help", option)
            elif _first_word(text) in FRAGMENTS or text[0].islower():
                yield Fault(option, "fragment", text)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for verb in command.list_commands(context):
                found = command.get_command(context, verb)
                assert found is not None
                yield from walk(found, f"{name} {verb}")

    yield from walk(main, "bark-jax")


def _vague(text: str) -> Iterator[tuple[str, str]]:
    for pattern, instead in _PHRASES:
        for match in pattern.finditer(text):
            yield match[0], instead


def _first_word(text: str) -> str:
    return match[0].lower() if (match := re.match(r"[A-Za-z]+", text.strip())) else ""


def _parts(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _public(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[ast.ClassDef | ast.FunctionDef, str]]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node, owner + node.name
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{owner}{node.name}.")


def _is_obvious(node: ast.AST) -> bool:
    """Whether a function is an overload's signature, or a method that says itself: `Protocol`'s `...`."""
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return "overload" in decorators or any(name.endswith((".setter", "override")) for name in decorators)


def _lacks_shapes(node: ast.FunctionDef, text: str) -> bool:
    if _is_obvious(node):
        return False
    arrays = [arg for arg in (*node.args.args, *node.args.kwonlyargs) if _is_array(arg.annotation)]
    unclear = [arg.arg for arg in arrays if not _SUFFIX.search(arg.arg) and arg.arg not in text]
    return bool((unclear or _is_array(node.returns)) and not _SHAPE.search(text))


def _is_array(annotation: ast.expr | None) -> bool:
    return annotation is not None and bool(_ARRAY.search(ast.unparse(annotation)))


def _raises(node: ast.FunctionDef) -> bool:
    if _is_obvious(node):
        return False
    return any(
        (isinstance(part, ast.Raise) and part.exc is not None)
        or (isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and bool(_CHECKS.fullmatch(part.func.id)))
        for part in ast.walk(node)
    )


def all_faults() -> Iterator[Fault]:
    for path in code_files():
        yield from code_faults(path)
        yield from name_faults(path)
    for path in prose_files():
        yield from prose_faults(path)
    yield from help_faults()


if __name__ == "__main__":
    wanted = tuple(sys.argv[1:])
    sys.path.insert(0, str(ROOT))
    found = [fault for fault in all_faults() if not wanted or fault.where.startswith(wanted)]
    for fault in found:
        print(f"{fault.where}: {fault.kind}: {fault.what}")
    kinds = {kind: sum(fault.kind == kind for fault in found) for kind in sorted({fault.kind for fault in found})}
    print(", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no faults")
