"""Restricted unpickler for torch checkpoints: it imports nothing and runs no code that the file names.

A pickle is a program for a small stack machine that can import and call any function. This machine knows only the
opcodes that torch.save writes for weights, and only the names in globals.py, which it maps to functions there. Any
other file is refused with the name of what it asked for.

Source: CPython, Lib/pickletools.py; PyTorch, torch/serialization.py, `persistent_id` in `_save`.
"""

import itertools
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bark_jax.checkpoints._arrays import DOWNLOAD_AGAIN, FileRegion, StoredArray, are_counts, brief, refuse
from bark_jax.checkpoints.pickle.globals import GLOBALS, Function, Storage, StorageType
from bark_jax.errors import CheckpointError

# A Bark with its optimizer state takes some 15,000 instructions and 500 arrays. These limits bound a hostile pickle to
# tens of megabytes of memory and a second.
MAX_INSTRUCTIONS = 2**19
MAX_ARRAYS = 2**16
MAX_STRING_BYTES = 2**20
MAX_NAME_BYTES = 256
MAX_DEPTH = 64
MAX_LISTED_KEYS = 4
# Up to here an int is its own hash; larger ones could be chosen to collide, which makes filling a dict quadratic.
MAX_INT_KEY = 2**60

INSTRUCTIONS = {ord(instruction.code): instruction.name for instruction in pickletools.opcodes}
# torch.save writes protocol 2 by default; its pickle_protocol argument can choose others, up to 5.
INHERITED_INSTRUCTIONS = (
    "PROTO MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT BINPUT "
    "LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID"
)


# Python's slow unpickler: a subclass of the fast one, in C, can replace find_class and persistent_load, no opcode.
class WeightsUnpickler(pickle._Unpickler):
    """An unpickler that makes only dicts, lists, tuples, strings, numbers and StoredArrays.

    Derived from Python's pure-Python unpickler, of which it keeps the opcodes of INHERITED_INSTRUCTIONS.

    data: the bytes that hold the pickle.
    path: the file, for messages.
    open_storage: returns the region of a storage, given its key, its bytes and the bytes of an element.
    position: the offset in `data` at which the pickle begins; after `load`, at which it ends.
    """

    def __init__(self, data: bytes, path: Path, open_storage: Callable[[str, int, int], FileRegion], position: int = 0):
        # Not by pickle._Unpickler.__init__, which wants a file. The inherited opcodes use the last four attributes.
        self._data = data
        self.position = position
        self._path = path
        self._open_storage = open_storage
        self._storages: dict[str, FileRegion] = {}
        self._num_arrays = 0
        self.memo: dict[int, Any] = {}  # a dict: LONG_BINPUT may name index 2**32 - 1, 32 GiB of pointers in an array
        self.metastack: list[list] = []
        self.stack: list[Any] = []
        self.append = self.stack.append

    def load(self) -> Any:
        """Runs the pickle and returns its object. Raises CheckpointError for a damaged or hostile one."""
        for _ in range(MAX_INSTRUCTIONS):
            start = self.position
            code = self.read(1)[0]
            try:
                if code not in self.dispatch and code != pickle.STOP[0]:
                    name = INSTRUCTIONS.get(code, f"0x{code:02x}")
                    self._refuse(f"uses the instruction {name}, which no weights need")
                if code == pickle.STOP[0]:
                    return self._checked(self.stack.pop())
                self.dispatch[code](self)
            except CheckpointError as error:
                raise CheckpointError(f"{error}{self._key_path()}") from error
            except (
                pickle.UnpicklingError,
                TypeError,
                ValueError,
                LookupError,
                AttributeError,
                ArithmeticError,
            ) as error:
                step = f"byte {start} of its pickle, {INSTRUCTIONS[code]}"
                refuse(self._path, f"is damaged: {error} ({step}){self._key_path()}")
        self._refuse(f"takes more than {MAX_INSTRUCTIONS} instructions, which no weights need")

    def read(self, nbytes: int) -> bytes:
        """Takes the next bytes of the pickle. Raises CheckpointError for more than are left, or than any string has."""
        left = len(self._data) - self.position
        if nbytes > left:
            refuse(self._path, f"is damaged: its pickle claims {nbytes} bytes where {left} are left. {DOWNLOAD_AGAIN}")
        if nbytes > MAX_STRING_BYTES:
            self._refuse(f"holds a string of {nbytes} bytes, more than {MAX_STRING_BYTES}")
        self.position += nbytes
        return self._data[self.position - nbytes : self.position]

    def readline(self) -> bytes:
        """Takes the next line, a module's or name's of GLOBAL. Raises CheckpointError for one that is too long."""
        end = self._data.find(b"\n", self.position, self.position + MAX_NAME_BYTES)
        if end < 0:
            self._refuse(f"asks for a name without an end, or one of more than {MAX_NAME_BYTES} bytes")
        return self.read(end + 1 - self.position)

    def find_class(self, module: str, name: str) -> Any:
        """Looks up a name in GLOBALS instead of importing it. Raises CheckpointError for a name that is not there."""
        full_name = f"{module}.{name}"
        if "complex" in full_name.lower():
            refuse(self._path, f"holds complex numbers ({brief(full_name)}), which no part of a Bark does")
        if full_name not in GLOBALS:
            self._refuse(f"asks for {brief(full_name)}, which no weights need")
        return GLOBALS[full_name]

    def persistent_load(self, pid: Any) -> Storage:
        """Finds a storage by its persistent id: ("storage", type, key, device, number of elements).

        That of a stream has one more item: None, or (key, begin, number of elements) for a part of the storage.

        Raises CheckpointError for any other id, or a storage of another size than the file's.
        """
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            self._refuse("names a storage in a way that torch does not")
        # The device, such as "cuda:0", is where the tensor was when it was saved: values are read into host memory.
        _, storage_type, key, _, numel, view = (*pid, None)[:6]
        if type(storage_type) is not StorageType or type(key) is not str or not are_counts((numel,)):
            self._refuse("names a storage in a way that torch does not")
        itemsize = 1 if storage_type.dtype is None else storage_type.dtype.itemsize
        if key not in self._storages:
            self._storages[key] = self._open_storage(key, numel * itemsize, itemsize)
        region = self._storages[key]
        # Tied weights and views name one storage several times, and each time with a type and a number of its own.
        if numel * itemsize != region.nbytes:
            refuse(
                self._path,
                f"is damaged: {region.label} has {region.nbytes} bytes, "
                f"its pickle claims {numel} elements of {itemsize}. {DOWNLOAD_AGAIN}",
            )
        start, numel = self._part(view, numel)
        return Storage(region, storage_type.dtype, start * itemsize, numel * itemsize)

    def _part(self, view: Any, numel: int) -> tuple[int, int]:
        """Returns the first element of a part of a storage of `numel` elements, and its number of elements."""
        if view is None:
            return 0, numel
        if type(view) is not tuple or len(view) != 3 or not are_counts(view[1:]) or view[1] + view[2] > numel:
            self._refuse(f"takes the part {brief(view)} of a storage of {numel} elements")
        return view[1:]

    def load_frame(self) -> None:
        """FRAME: skips the length of a frame, which matters only to those who read from a stream."""
        self.read(8)

    def load_append(self) -> None:
        """APPEND: appends the top of the stack to the list below it."""
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        """APPENDS: appends all items above the mark to the list below it."""
        self._extend(self.pop_mark())

    def load_setitem(self) -> None:
        """SETITEM: sets one item of the dict below the key and the value."""
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """SETITEMS: sets the keys and values above the mark as items of the dict below it."""
        self._update(self.pop_mark())

    def load_reduce(self) -> None:
        """REDUCE: calls a Function of GLOBALS, and nothing else. Raises CheckpointError for any other callable."""
        arguments = self.stack.pop()
        function = self.stack.pop()
        # By exact type, not `callable`: dtypes and storage types are values that a file may name but not call.
        if type(function) is not Function or type(arguments) is not tuple:
            self._refuse(f"asks to call a {type(function).__name__}, which no weights need")
        value = function.call(*arguments)
        if isinstance(value, StoredArray):
            self._num_arrays += 1
            if self._num_arrays > MAX_ARRAYS:
                self._refuse(f"holds more than {MAX_ARRAYS} tensors")
        self.append(value)

    def load_build(self) -> None:
        """BUILD: ignores the state and leaves the value as it is.

        A dict's state is torch's `_metadata` of versions; a dtype's is its byte order, which is checked. Raises
        CheckpointError for any other value.
        """
        state = self.stack.pop()
        value = self.stack[-1]
        if isinstance(value, np.dtype) and type(state) is tuple and len(state) > 1:
            if state[1] not in ("<", "|"):
                self._refuse(f"holds a number of byte order {brief(state[1])}, expected '<'")
        elif type(value) is not dict or type(state) is not dict:
            self._refuse(f"asks to set the state of a {type(value).__name__}, which no weights need")

    dispatch = {
        code: pickle._Unpickler.dispatch[code]
        for code, name in INSTRUCTIONS.items()
        if name in INHERITED_INSTRUCTIONS.split()
    } | {
        pickle.FRAME[0]: load_frame,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
    }

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            self._refuse(f"appends to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            self._refuse(f"sets an item of a {type(self.stack[-1]).__name__}")
        keys = items[::2]
        # Strings need no such limit: their hashes depend on a random number of this process.
        for key in keys:
            if type(key) is not str and not (type(key) is int and abs(key) <= MAX_INT_KEY):
                self._refuse(f"has a dict key of type {type(key).__name__}, expected a string or a small number")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def _checked(self, root: Any) -> Any:
        """Returns the result. Raises CheckpointError where a Function or storage is left in it, or it nests too deep.

        A memoized container can contain itself, or be repeated 2**64 times in a few bytes, so the walk is bounded.
        """
        waiting = [(root, 0)]
        num_values = 1
        while waiting:
            value, depth = waiting.pop()
            if isinstance(value, (Function, StorageType, Storage)):
                self._refuse(f"holds a {type(value).__name__.lower()} where a value should be")
            if not isinstance(value, (dict, list, tuple)):
                continue
            num_values += len(value)
            if depth > MAX_DEPTH or num_values > MAX_INSTRUCTIONS:
                self._refuse(
                    f"nests its containers in themselves, or deeper than {MAX_DEPTH}, or repeats them endlessly"
                )
            items = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in items]
        return root

    def _key_path(self) -> str:
        """The keys of the nested dicts being filled, for a message: " (at 'model' > 'w')"; empty outside of any."""
        frames = [*self.metastack, self.stack]
        keys = []
        for below, frame in zip([[], *frames], frames, strict=False):
            if below and type(below[-1]) is dict:  # keys and values in turn, since a mark
                keys += frame[(len(frame) - 1) // 2 * 2 :][:1]
            keys += [key for holder, key in itertools.pairwise(frame) if type(holder) is dict and type(key) is str]
        names = [brief(key) for key in keys if type(key) is str][:MAX_LISTED_KEYS]
        return f" (at {' > '.join(names)})" if names else ""

    def _refuse(self, what: str) -> NoReturn:
        refuse(
            self._path,
            f"{what}. Nothing of it was run. Do not use this file; get the weights from a source you trust.",
        )
