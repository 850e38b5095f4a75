"""LoRA (low-rank adaptation): low-rank changes to a frozen network's kernels, in a file of a few megabytes.

    kernel + alpha / rank * A @ B        A [in, rank] random, B [rank, out] zero at first; both float32

The frozen network does not change: `merge` returns one with changed kernels, in training and once after loading.
(`nnx.LoRA` wraps layers instead, which changes the module's structure, parameter names and compiled programs. A merged
LoRA adds no cost to generation.)
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bark_jax import tiny
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints._arrays import to_device
from bark_jax.checkpoints.model_folder import (
    NETWORKS,
    check_shapes,
    list_names,
    parameter_shapes,
    read_manifest,
    weight_file,
)
from bark_jax.checkpoints.safetensors_file import read_with_metadata, safetensors_chunks
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError, quoted
from bark_jax.files import output_errors, write_atomically

# Layers of a block. A target matches every kernel whose path ends in it: "mlp.up" matches blocks.0.mlp.up.kernel,
# blocks.1.mlp.up.kernel and so on.
# In a network of bark-small, rank 8 of all four takes 98,304 numbers a block: 4.7 MB in all, 1.4 % of its kernels.
DEFAULT_TARGETS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
FORMAT = "bark_jax_lora"
VERSION = 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lora:
    """The LoRA of one network: a pytree whose arrays are trained."""

    a: dict[str, jax.Array]  # float32 [in, rank], by the name of the kernel: "blocks.0.attention.qkv.kernel"
    b: dict[str, jax.Array]  # float32 [rank, out]
    alpha: float = dataclasses.field(metadata={"static": True})

    @property
    def rank(self) -> int:
        """The rank of the changes, the same for all kernels."""
        return next(iter(self.a.values())).shape[1]


class Base(NamedTuple):
    """The identity of the model that a LoRA was trained on."""

    name: str  # a label for messages
    sha256: Mapping[str, str]  # SHA-256 of each network's file, by network


@under_own_config
def init_lora(model: nnx.Module, rank: int, alpha: float, seed: int, targets: Sequence[str] = DEFAULT_TARGETS) -> Lora:
    """Makes a LoRA for a network, with B zero, so that merging it changes nothing yet.

    Args:
      rank: of the changes; 4 to 64 are common.
      alpha: scale of the changes: they are multiplied by alpha / rank.
      seed: of the random numbers of A, which is normal with standard deviation in**-0.5.
      targets: layers to change, such as "attention.qkv" or "blocks.3.mlp.up".

    Raises:
      InputError: rank is below 1, alpha is not positive, or a target matches no kernel.
    """
    if rank < 1 or not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"rank is {rank} and alpha {alpha}, expected a rank of 1 or more and an alpha above 0")
    kernels = {name: array.shape for name, array in parameter_shapes(model).items() if _is_kernel(name, array.shape)}
    chosen = {name: shape for name, shape in kernels.items() if any(_is_of(name, target) for target in targets)}
    idle = [target for target in targets if not any(_is_of(name, target) for name in kernels)]
    if idle or not chosen:
        raise InputError(
            f"targets is {list(targets)}, and {list_names(idle) or 'no target'} names no kernel of this network; "
            f"its kernels are {list_names(kernels, limit=8)}"
        )
    rng = np.random.default_rng(seed)
    return Lora(
        {name: to_device(np.float32(rng.normal(0, n_in**-0.5, (n_in, rank)))) for name, (n_in, _) in chosen.items()},
        # With B zero, A has no gradient at the first step, and B has one through A. With both zero, neither would move.
        {name: to_device(np.zeros((rank, n_out), np.float32)) for name, (_, n_out) in chosen.items()},
        float(alpha),
    )


def merge(model: nnx.Module, lora: Lora, *, where: Any = "the LoRA") -> nnx.Module:
    """Returns a network with the LoRA merged into its kernels. Pure, and differentiable in the arrays of `lora`.

    The sum is made in float32 and rounded to the network's dtype. Messages begin with `where`.

    Raises:
      CheckpointError: the LoRA is of another network; the message names what does not fit.
    """
    check_lora(lora, {name: array.shape for name, array in parameter_shapes(model).items()}, where)
    graphdef, state = nnx.split(model)
    merged = []
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        if name in lora.a:
            variable = variable.replace(changed_kernel(variable.get_value(), lora, name))
        merged.append((path, variable))
    return nnx.merge(graphdef, nnx.from_flat_state(merged))


def changed_kernel(kernel: jax.Array | np.ndarray, lora: Lora, name: str) -> jax.Array:
    """Merges the change to the kernel [in, out] of that name: summed in float32, rounded to the kernel's dtype."""
    # "highest": the default precision of a GPU or TPU rounds the operands to fewer bits than the small change needs.
    change = jnp.matmul(lora.a[name], lora.b[name], precision="highest") * (lora.alpha / lora.rank)
    return (kernel.astype(jnp.float32) + change).astype(kernel.dtype)


def check_lora(lora: Lora, shapes: Mapping[str, tuple[int, ...]], where: Any) -> None:
    """Raises CheckpointError, naming the kernels, unless the LoRA fits a network with parameters of these shapes."""
    changed = {name: (lora.a[name].shape[0], lora.b[name].shape[1]) for name in lora.a}
    kernels = {name: shape for name, shape in shapes.items() if name in changed and _is_kernel(name, shape)}
    check_shapes(where, kernels, changed)


def _is_kernel(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".kernel") and len(shape) == 2


def _is_of(kernel: str, target: str) -> bool:
    # The dots bind the target to complete parts of the path: "up" is no target of "mlp.backup.kernel".
    return f".{kernel}".endswith(f".{target}.kernel")


def base_of(folder: str | os.PathLike[str], name: str | None = None) -> Base:
    """Reads the identity of a model folder, or of "tiny", which `save_lora` stores and `load_lora` compares.

    `name` None takes the source in the manifest. Raises ModelNotFoundError or CheckpointError as `read_manifest` does.
    """
    manifest = read_manifest(tiny.folder_of(folder))
    digests = {network: manifest.files.get(weight_file(network)) for network in NETWORKS}
    return Base(
        manifest.source if name is None else name,
        {network: record.sha256 for network, record in digests.items() if record is not None},
    )


def save_lora(path: str | os.PathLike[str], loras: Mapping[str, Lora], *, base: Base | None = None) -> None:
    """Writes the LoRAs of one or several networks as one safetensors file, atomically.

    The same changes make the same bytes, in whichever order they are given.

    Args:
      loras: by network, "semantic", "coarse_acoustics" or "fine_acoustics".
      base: the model they were trained on; `load_lora` refuses another.

    Raises:
      InputError: `loras` is empty, or has an unknown network.
      OutputError: the disk is full, or the path is not writable.
    """
    if not loras or any(network not in NETWORKS for network in loras):
        raise InputError(f"loras are of {list(loras)}, expected one or more of {', '.join(NETWORKS)}")
    arrays, about = {}, {}
    networks = [network for network in NETWORKS if network in loras]
    for network in networks:
        lora = loras[network]
        about[network] = {"rank": lora.rank, "alpha": float(lora.alpha)}
        for letter in "ab":
            for name, array in getattr(lora, letter).items():
                arrays[f"{network}.{name}.{letter}"] = np.asarray(array, np.float32)
    metadata = {"format": FORMAT, "version": str(VERSION), "networks": json.dumps(about)}
    if base is not None:
        digests = {network: base.sha256[network] for network in networks if network in base.sha256}
        metadata |= {"base": base.name, "base_sha256": json.dumps(digests)}
    ordered = dict(sorted(arrays.items()))
    with output_errors(path):
        # All in memory, unlike a network's file: a LoRA has megabytes.
        write_atomically(path, b"".join(safetensors_chunks(ordered, ordered.items(), metadata)))


def load_lora(path: str | os.PathLike[str], *, base: Base | None = None) -> dict[str, Lora]:
    """Reads a file of `save_lora`. Returns the LoRA of each network, by network.

    Args:
      base: the model to use them with; a LoRA that was trained on other weights is refused.

    Raises:
      InputError: `path` is no path.
      ModelNotFoundError: there is no such file.
      CheckpointError: it is damaged, no LoRA of this project, or of another model.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"a LoRA is named by its file, not by {quoted(path)}")
    path = Path(path)
    if not os.path.isfile(path):  # False for a name that is too long, where Path.is_file raises
        raise ModelNotFoundError(f"there is no LoRA file {quoted(str(path), 400)}; training writes lora.safetensors")
    stored, metadata = read_with_metadata(path)
    arrays = {name: array.read() for name, array in stored.items()}
    about = _parse_metadata(path, metadata)
    if base is not None:
        _check_base(path, metadata, about, base)
    loras = {network: _take_lora(path, network, record, arrays) for network, record in about.items()}
    if arrays:
        raise CheckpointError(f"{path} holds arrays that are of none of its networks: {list_names(arrays)}")
    return loras


def _parse_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Reads {network: {"rank": ..., "alpha": ...}} from the file's metadata."""
    if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
        raise CheckpointError(
            f"{path} has format {quoted(metadata.get('format'))} version {quoted(metadata.get('version'))}, expected "
            f"{FORMAT} {VERSION}: it is no LoRA of this project, or a newer one"
        )
    about = _parse_json(path, metadata, "networks")
    for network, record in about.items():
        rank, alpha = (record.get(name) if isinstance(record, dict) else None for name in ("rank", "alpha"))
        is_right = type(rank) is int and rank > 0 and type(alpha) is float and math.isfinite(alpha) and alpha > 0
        if network not in NETWORKS or not is_right:
            raise CheckpointError(f"{path} says of network {quoted(network)} {quoted(record)}, expected rank and alpha")
    if not about:
        raise CheckpointError(f"{path} holds changes of no network")
    return about


def _parse_json(path: Path, metadata: Mapping[str, str], field: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(field, "{}"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {field} is {quoted(metadata[field])}, expected a JSON object")
    return value


def _check_base(path: Path, metadata: Mapping[str, str], networks: Sequence[str], base: Base) -> None:
    digests = _parse_json(path, metadata, "base_sha256")
    other = [n for n in networks if n in digests and n in base.sha256 and digests[n] != base.sha256[n]]
    if other:
        raise CheckpointError(
            f"{path} was trained on other weights of {', '.join(other)} ({quoted(metadata.get('base'))}) than those of "
            f"{base.name!r}; use it with the model it was trained on"
        )


def _take_lora(path: Path, network: str, record: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Lora:
    """Makes a network's LoRA of its arrays, which are removed from `arrays`."""
    halves = {}
    for letter in "ab":
        names = [name for name in arrays if name.startswith(f"{network}.") and name.endswith(f".{letter}")]
        halves[letter] = {name[len(network) + 1 : -2]: arrays.pop(name) for name in names}
    a, b, rank = halves["a"], halves["b"], record["rank"]
    if lone := sorted(a.keys() ^ b.keys()):
        raise CheckpointError(f"{path} holds only one half of {network}'s change to {list_names(lone)}")
    if not a:
        raise CheckpointError(f"{path} holds no changes of {network}")
    for name in a:
        shapes = (a[name].shape, b[name].shape)
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != rank or shapes[1][0] != rank:
            raise CheckpointError(
                f"{path}: the halves of {network}'s {name} have shapes {shapes}, not [in, {rank}] and [{rank}, out]"
            )
        if any(half.dtype != np.float32 or not np.isfinite(half).all() for half in (a[name], b[name])):
            raise CheckpointError(f"{path}: the halves of {network}'s {name} are not finite float32 numbers")
    return Lora(*({name: to_device(half) for name, half in part.items()} for part in (a, b)), record["alpha"])
