"""Allow-list of the names that a torch checkpoint's pickle may import, and our functions that replace them.

Source: PyTorch, torch/_utils.py, `_rebuild_tensor_v2` and its kin; numpy, _core/src/multiarray, `arraydescr_reduce` and
`gentype_reduce`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from bark_jax.checkpoints._arrays import FileRegion, StoredArray, are_counts, brief, shape_fault

# Only numpy scalars, of up to 16 bytes, are pickled as latin1 strings.
MAX_ENCODED_BYTES = 16

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TORCH_DTYPES = {name: np.dtype(name) for name in (*FLOATS, *INTEGERS, "bool")} | {"bfloat16": BFLOAT16}
NUMPY_DTYPES = {np.dtype(name).str[1:]: np.dtype(name) for name in (*FLOATS, *INTEGERS, "bool")}  # by "f4" and the like
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclasses.dataclass(frozen=True)
class Function:
    """A function that replaces a callable of GLOBALS, so that a pickle can call it (REDUCE)."""

    call: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class StorageType:
    """The dtype of a torch storage class; None for an untyped one, whose dtype each tensor over it gives."""

    dtype: np.dtype | None


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage, or a part of one: `nbytes` bytes of a region from its byte `start` on, and their dtype."""

    region: FileRegion
    dtype: np.dtype | None
    start: int
    nbytes: int


def _rebuild_tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *, dtype=None) -> StoredArray:
    """Makes a tensor, which is a strided view of a storage; `offset` and `stride` are in elements.

    Raises TypeError or ValueError, which the unpickler turns into a CheckpointError.
    """
    if type(storage) is not Storage:
        raise TypeError(f"expected a storage, got {type(storage).__name__}")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise TypeError("a tensor without a dtype")
    _check_view(storage.nbytes // dtype.itemsize, offset, size, stride)
    offset_bytes = storage.start + offset * dtype.itemsize
    strides = tuple(step * dtype.itemsize for step in stride)
    return StoredArray(size, dtype, lambda: storage.region.read(size, dtype, offset_bytes, strides))


def _check_view(storage_numel: int, offset: int, size: tuple, stride: tuple) -> None:
    """Raises ValueError unless the view is inside the storage and its elements do not overlap.

    An overlapping view (stride 0) of a small file could make an array of any size, and run the process out of memory.
    """
    view = f"offset {brief(offset)}, size {brief(size)}, stride {brief(stride)}, storage of {storage_numel} elements"
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
        raise ValueError(f"{view}: expected two tuples of equal length")
    fault = shape_fault(size)
    if fault is None and not are_counts((offset, *stride)):
        fault = "an offset or a stride that is no whole number, 0 or more"
    if fault is not None:
        raise ValueError(f"{view}: it has {fault}; expected counts, 0 or more")
    if math.prod(size) == 0:
        return
    # Size (2, 3) with stride (1, 2): the axis of stride 1 reaches element 1; stride 2 is beyond that, and the view
    # reaches 1 + 2 * 2 = 5, each element once. Interleaved views, such as size (3, 2) with stride (2, 3), are refused
    # although they reach no element twice: no weights are stored so.
    reach = 0  # the farthest element that the dimensions with smaller strides reach
    for step, count in sorted(zip(stride, size, strict=True)):
        if count > 1 and step <= reach:
            raise ValueError(f"{view}: a view that reaches elements twice")
        reach += (count - 1) * step
    if offset + reach >= storage_numel:
        raise ValueError(f"{view}: a view that reaches beyond it")


def _rebuild_tensor_v2(storage, offset, size, stride, _requires_grad, _hooks, metadata=None) -> StoredArray:
    if metadata:  # the tensor's values are the storage's negated or conjugated
        raise ValueError("a negated or conjugated view")
    return _rebuild_tensor(storage, offset, size, stride)


def _rebuild_tensor_v3(storage, offset, size, stride, _requires_grad, _hooks, dtype, metadata=None) -> StoredArray:
    if metadata or not isinstance(dtype, np.dtype):
        raise ValueError(f"dtype {brief(dtype)}, or a negated or conjugated view")
    return _rebuild_tensor(storage, offset, size, stride, dtype=dtype)


def _rebuild_parameter(data: StoredArray, _requires_grad, _hooks) -> StoredArray:
    if type(data) is not StoredArray:
        raise TypeError(f"a parameter of a {type(data).__name__}")
    return data


# torch creates it empty and fills it by SETITEMS, so arguments are a TypeError and the file is refused.
def _ordered_dict() -> dict:
    return {}


def _size(sizes: tuple) -> tuple:
    if type(sizes) is not tuple or shape_fault(sizes):
        raise ValueError(f"torch.Size of {brief(sizes)}")
    return sizes


def _encode(text: str, encoding: str) -> bytes:
    """Encodes the bytes of a numpy scalar: protocol 2 has no opcode for bytes, and calls `_codecs.encode` instead."""
    if type(text) is not str or len(text) > MAX_ENCODED_BYTES or encoding != "latin1":
        raise ValueError(
            f"{brief(text)} as {brief(encoding)}, expected up to {MAX_ENCODED_BYTES} characters as 'latin1'"
        )
    return text.encode("latin1")


def _numpy_dtype(code: str, _align=False, _copy=True) -> np.dtype:
    if type(code) is not str or code not in NUMPY_DTYPES:
        raise ValueError(f"numpy dtype {brief(code)}, expected one of {sorted(NUMPY_DTYPES)}")
    return NUMPY_DTYPES[code]


def _numpy_scalar(dtype: np.dtype, data: bytes) -> int | float | bool:
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or len(data) != dtype.itemsize:
        raise ValueError(f"a numpy scalar of {brief(dtype)} in {brief(data)}")
    return np.frombuffer(data, dtype)[0].item()


GLOBALS: dict[str, Function | StorageType | np.dtype] = {
    "collections.OrderedDict": Function(_ordered_dict),
    "torch._utils._rebuild_tensor": Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Function(_rebuild_tensor_v2),
    "torch._utils._rebuild_tensor_v3": Function(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": Function(_rebuild_parameter),
    "torch.Size": Function(_size),
    "_codecs.encode": Function(_encode),
    "numpy.dtype": Function(_numpy_dtype),
    "numpy.core.multiarray.scalar": Function(_numpy_scalar),  # numpy 1
    "numpy._core.multiarray.scalar": Function(_numpy_scalar),  # numpy 2
    "torch.storage.UntypedStorage": StorageType(None),
    "torch.UntypedStorage": StorageType(None),
    **{f"torch.{name}": StorageType(TORCH_DTYPES[dtype]) for name, dtype in STORAGES.items()},
    **{f"torch.cuda.{name}": StorageType(TORCH_DTYPES[dtype]) for name, dtype in STORAGES.items()},  # before torch 0.4
    **{f"torch.{name}": dtype for name, dtype in TORCH_DTYPES.items()},
}
