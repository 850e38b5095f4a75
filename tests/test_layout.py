"""Module structure: allowed imports between subpackages, no import cycles, one package in the wheel."""

import functools
import graphlib
import re
from pathlib import Path

import bark_jax
from benchmarks import layout

PACKAGE = Path(bark_jax.__file__).parent

# Subpackages from the lowest layer to the highest; those in one line do not import each other.
FLOORS = (
    ("errors",),
    ("_system",),
    ("files",),
    ("tiny",),
    ("hub",),
    ("config",),
    ("networks",),
    ("generation",),
    ("checkpoints",),
    ("voices",),
    ("audio",),
    ("text",),
    ("stage_models",),
    ("model",),
    ("bark",),
    ("batch", "bench", "parity", "stablehlo", "training"),
    ("serve", "verify"),
    ("cli",),
    ("__main__",),
)
# Subpackages that must work without JAX, or before it is imported, and so import it inside functions.
LAZY_ROOMS = {"batch", "cli"}
# Modules that need an optional package, or a part of JAX that is slow to import.
SCRIPT = "bark_jax.stablehlo.speak"
LAZY_MODULES = {
    "bark_jax.audio.plots",
    "bark_jax.networks.pallas_decode",
    "bark_jax.training.recipes.tiny_voice.listen",
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@functools.cache
def modules() -> dict[str, Path]:
    found = layout.modules_of(PACKAGE.parent)
    return {name: path for name, path in found.items() if path.is_relative_to(PACKAGE)}


@functools.cache
def imports(module: str) -> list[tuple[str, bool]]:
    """Imports of a module from the package, each with whether it runs at import time; TYPE_CHECKING is left out."""
    at_once, late, _ = layout.imports_of(modules()[module], modules())
    return [*((name, True) for name in at_once), *((name, False) for name in late)]


def test_few_modules_lie_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def test_every_room_has_its_floor():
    floors = [name for floor in FLOORS for name in floor]
    assert sorted({room(module) for module in modules()} - {"__init__"}) == sorted(floors)


def test_no_module_imports_a_room_above_its_own():
    floor = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    above = [
        (module, name)
        for module in modules()
        for name, _ in imports(module)
        if module != "bark_jax" and room(name) != room(module) and floor[room(name)] >= floor[room(module)]
    ]
    assert above == []


def test_no_module_imports_a_private_one_of_another_room():
    private = [
        (module, name)
        for module in modules()
        for name, _ in imports(module)
        if room(name) not in (room(module), "_system") and any(part.startswith("_") for part in name.split(".")[2:])
    ]
    assert private == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {name for name, is_at_once in imports(module) if is_at_once} for module in modules()}
    for module, found in graph.items():  # a module's package is imported before it
        packages = {name.rpartition(".")[0] for name in found} - {module, "bark_jax"}
        found |= {package for package in packages if not module.startswith(f"{package}.")}
    graphlib.TopologicalSorter(graph).prepare()


def test_functions_import_only_what_is_optional():
    late = {
        (module, name)
        for module in modules()
        for name, is_at_once in imports(module)
        if room(module) not in LAZY_ROOMS and not is_at_once and name not in LAZY_MODULES
    }
    assert late == set()


def test_one_module_reads_safetensors_files():
    users = {
        module
        for module, path in modules().items()
        if re.search(r"^\s*(import|from) safetensors\b", path.read_text(), re.M)
    }
    # speak.py is copied into exported folders, and no module imports it.
    assert users == {"bark_jax.checkpoints.safetensors_file", SCRIPT}
    assert all(SCRIPT not in (name for name, _ in imports(module)) for module in modules())
