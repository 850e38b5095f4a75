"""Mutation testing: runs a random sample of cosmic-ray's mutants, each against the tests of its module.

    pip install "cosmic-ray==8.7.*"
    python -m benchmarks.mutation --seed 0 --out mutants.json
    python -m benchmarks.mutation --group stages --mutants 20

Mutants are made in a copy of the checkout. The sample depends on the seed and the modules alone, so running the same
command before and after a change of the tests compares the tests.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("bark_jax", "converters", "tests", "benchmarks", "docs", "README.md", "pyproject.toml")


@dataclasses.dataclass(frozen=True)
class Group:
    """Modules to mutate, their tests, and the number of mutants to draw."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    n_mutants: int


GROUPS = {
    "tokens": Group(("bark_jax/generation/tokens.py",), ("tests/test_tokens.py",), 60),
    "sampling": Group(("bark_jax/generation/sampling.py",), ("tests/test_sampling.py",), 30),
    "pickles": Group(
        (
            *(f"bark_jax/checkpoints/pickle/{name}.py" for name in ("unpickler", "zip", "globals")),
            "bark_jax/checkpoints/safetensors_file.py",
        ),
        ("tests/test_torch_pickle.py", "tests/test_safetensors_file.py"),
        40,
    ),
    "stages": Group(
        tuple(f"bark_jax/generation/{name}.py" for name in ("semantic", "coarse", "fine", "codec_steps")),
        ("tests/test_stages.py", "tests/test_streaming.py"),
        40,
    ),
    "converters": Group(
        tuple(
            f"bark_jax/checkpoints/{name}.py"
            for name in (
                "_rules",
                "_transforms",
                "_plan",
                "open",
                "layouts/suno",
                "layouts/transformers",
                "layouts/encodec",
            )
        ),
        ("tests/test_converters.py",),
        40,
    ),
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mutation of a module: the n-th occurrence at which an operator applies."""

    module: str  # path in the checkout
    operator: str  # name of cosmic-ray's operator
    occurrence: int  # from 0
    line: int


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yields all mutants of a module, in the order of the operators' names and of the source."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    tree = get_ast_from_path(ROOT / module)
    for name in sorted(plugins.operator_names()):
        operator_class = plugins.get_operator(name)
        if operator_class.arguments():
            continue
        positions = (start for node in ast_nodes(tree) for start, _ in operator_class().mutation_positions(node))
        for occurrence, (line, _) in enumerate(positions):
            yield Mutant(module, name, occurrence, line)


def mutated(mutant: Mutant) -> str:
    """The source of the mutant's module with the mutation applied."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    operator = plugins.get_operator(mutant.operator)()
    return mutate_code((ROOT / mutant.module).read_text(), operator, mutant.occurrence)


def passes(checkout: Path, tests: tuple[str, ...], cache: Path, timeout_s: float | None = None) -> bool:
    """Whether tests pass in a checkout, within timeout_s seconds. cache: folder of the compilation cache."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HOME": str(checkout / "hf"),
    }
    try:
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def run_group(group: Group, n_mutants: int, seed: int, checkout: Path, cache: Path) -> list[dict]:
    """Draws mutants and runs the tests on each. Returns a JSON object a mutant; "killed" if a test failed.

    Raises:
      RuntimeError: the tests fail without a mutation.
    """
    start = time.monotonic()
    if not passes(checkout, group.tests, cache):
        raise RuntimeError(f"{' '.join(group.tests)} fails as it is")
    timeout_s = 60 + 10 * (time.monotonic() - start)  # a mutant may loop for ever; a timeout counts as killed
    found = [mutant for module in group.modules for mutant in mutants_of(module)]
    drawn = random.Random(seed).sample(found, min(n_mutants, len(found)))
    print(f"{len(drawn)} of {len(found)} mutants", flush=True)
    results = []
    for mutant in drawn:
        path = checkout / mutant.module
        text = path.read_text()
        try:
            path.write_text(mutated(mutant))
            killed = not passes(checkout, group.tests, cache, timeout_s)
        finally:
            path.write_text(text)
        results.append({**dataclasses.asdict(mutant), "killed": killed})
        if not killed:
            print(f"  survived: {mutant.module}:{mutant.line} {mutant.operator} #{mutant.occurrence}", flush=True)
    return results


def main() -> None:
    """Parses the options, copies the checkout and runs the groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", action="append", choices=GROUPS, help="Groups to run; all of them by default.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sample.")
    parser.add_argument("--mutants", type=int, help="Mutants of each group, in place of its own number.")
    parser.add_argument("--out", type=Path, help="JSON file for every mutant and its result.")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        checkout, cache = Path(folder) / "checkout", Path(folder) / "programs"
        checkout.mkdir()
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, checkout / part)
        for name in options.group or GROUPS:
            group = GROUPS[name]
            results[name] = run_group(group, options.mutants or group.n_mutants, options.seed, checkout, cache)
            n_killed = sum(result["killed"] for result in results[name])
            print(f"{name}: {n_killed} of {len(results[name])} killed by {' '.join(group.tests)}", flush=True)
            if options.out:
                options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
