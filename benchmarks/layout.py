"""Measures the module structure of a checkout from its imports: modules, import cycles, longest import chain.

python -m benchmarks.layout [CHECKOUT]
"""

import ast
import functools
import sys
from collections import defaultdict
from pathlib import Path

PACKAGES = ("bark_jax", "converters")


def modules_of(checkout: Path) -> dict[str, Path]:
    """All modules of the packages: {dotted name: file}."""
    found = {}
    for package in PACKAGES:
        for path in (checkout / package).rglob("*.py"):
            found[".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, modules: dict[str, Path]) -> tuple[set[str], set[str], int]:
    """Project modules that a module imports: (at import time, inside functions, number of imports inside functions).

    Imports under TYPE_CHECKING do not count.
    """
    at_once: set[str] = set()
    inner: set[str] = set()
    n_inner = 0
    stack = [(node, False) for node in ast.parse(path.read_text()).body]
    while stack:
        node, is_inner = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in full]
        found = {name for name in names if name in modules and name not in PACKAGES}
        n_inner += is_inner and bool(found)
        (inner if is_inner else at_once).update(found)
        starts = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        stack += [(child, is_inner or starts) for child in ast.iter_child_nodes(node)]
    return at_once, inner, n_inner


def in_cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that are part of an import cycle."""

    def reached(module: str) -> set[str]:
        found: set[str] = set()
        stack = list(graph[module] - {module})
        while stack:
            if (name := stack.pop()) not in found:
                found.add(name)
                stack += graph[name]
        return found

    return [module for module in graph if module in reached(module)]


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports. The graph must not have cycles."""

    @functools.cache
    def below(module: str) -> tuple[str, ...]:
        chains = [below(name) for name in sorted(graph[module] - {module})]
        return (module, *max(chains, key=len, default=()))

    return list(max((below(module) for module in sorted(graph)), key=len))


def report(checkout: Path) -> list[str]:
    """Formats the figures, one a line."""
    modules = modules_of(checkout)
    found = {name: imports_of(path, modules) for name, path in modules.items()}
    graph = {name: at_once for name, (at_once, _, _) in found.items()}
    everything = {name: at_once | inner for name, (at_once, inner, _) in found.items()}
    chain = longest_chain(graph)
    importers = defaultdict(set)
    for name, at_once in graph.items():
        for other in at_once:
            importers[other].add(name)
    imported = max(importers, key=lambda name: len(importers[name]))
    return [
        f"modules: {len(modules)}, at the top of bark_jax: {len(list((checkout / 'bark_jax').glob('*.py')))}",
        f"imports in the bodies of functions: {sum(n for _, _, n in found.values())}",
        f"modules in import cycles, imports in functions included: {len(in_cycles(everything))}",
        f"longest chain of imports: {len(chain)} ({' -> '.join(name.removeprefix('bark_jax.') for name in chain)})",
        f"imported most: {imported}, by {len(importers[imported])} modules",
    ]


if __name__ == "__main__":
    print("\n".join(report(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
