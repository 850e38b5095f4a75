"""The structure of a checkout, counted from its imports: how much lies where, and how deep it is stacked.

python -m benchmarks.layout [CHECKOUT]
"""

import ast
import functools
import sys
from collections import defaultdict
from pathlib import Path

PACKAGES = ("bark_jax", "converters")


def modules_of(checkout: Path) -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for package in PACKAGES:
        for path in (checkout / package).rglob("*.py"):
            found[".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, modules: dict[str, Path]) -> tuple[set[str], int]:
    """What a module imports of the project when it is imported, and how many imports lie in its functions."""
    at_once: set[str] = set()
    n_inner = 0
    stack = [(node, False) for node in ast.parse(path.read_text()).body]
    while stack:
        node, is_inner = stack.pop()
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                inner if (inner := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names
            ]
        found = {name for name in names if name in modules}
        n_inner += is_inner and bool(found)
        at_once |= set() if is_inner else found
        starts = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        stack += [(child, is_inner or starts) for child in ast.iter_child_nodes(node)]
    return at_once, n_inner


def longest_chain(graph: dict[str, set[str]]) -> tuple[list[str], int]:
    """The longest way of imports, each module once, and how many circles were met on the way."""
    circles = []

    @functools.cache
    def below(module: str) -> tuple[str, ...]:
        if module in under_way:
            circles.append(module)
            return ()
        under_way.add(module)
        ways = [below(name) for name in sorted(graph[module] - {module})]
        under_way.discard(module)
        return (module, *max(ways, key=len, default=()))

    under_way: set[str] = set()
    chain = max((below(module) for module in sorted(graph)), key=len)
    return list(chain), len(circles)


def report(checkout: Path) -> list[str]:
    """The figures, a line each."""
    modules = modules_of(checkout)
    found = {name: imports_of(path, modules) for name, path in modules.items()}
    graph = {name: at_once for name, (at_once, _) in found.items()}
    folders: dict[str, int] = defaultdict(int)
    for name in modules:
        folders[name.split(".")[1] if name.count(".") > 1 else ""] += 1
    chain, n_circles = longest_chain(graph)
    importers = defaultdict(set)
    for name, at_once in graph.items():
        for other in at_once:
            importers[other].add(name)
    most = max(importers, key=lambda name: len(importers[name]))
    return [
        f"modules: {len(modules)}, at the top of bark_jax: {len(list((checkout / 'bark_jax').glob('*.py')))}",
        f"imports in the bodies of functions: {sum(n for _, n in found.values())}",
        f"circles of imports: {n_circles}",
        f"longest chain of imports: {len(chain)} ({' -> '.join(name.removeprefix('bark_jax.') for name in chain)})",
        f"imported most: {most}, by {len(importers[most])} modules",
    ]


if __name__ == "__main__":
    print("\n".join(report(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
