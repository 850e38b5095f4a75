"""Reading PyTorch checkpoints (torch.save) without PyTorch, and without running code in them.

Source: PyTorch, torch/serialization.py, `load`: a zip archive (torch 1.6 and later, see zip.py), or a stream of
pickles (earlier, see stream.py), or a tar archive (0.1), which is not supported.
"""

import os
from pathlib import Path
from typing import Any

from bark_jax.checkpoints._arrays import DOWNLOAD_AGAIN, looks_like, open_file, refuse, refuse_pointers
from bark_jax.checkpoints.pickle.stream import TorchStream, is_torch_stream
from bark_jax.checkpoints.pickle.unpickler import WeightsUnpickler
from bark_jax.checkpoints.pickle.zip import TorchZip


def read_torch(path: str | os.PathLike) -> Any:
    """Reads the object that torch.save wrote: dicts, lists, tuples, strings and numbers, with StoredArrays for tensors.

    An OrderedDict comes as a dict, a torch.Size as a tuple, a numpy scalar as a number, a dtype as numpy's. No code in
    the file is run, and no tensor is read before its `read()`. The same limits hold for both forms of file.

    Raises:
      ModelNotFoundError: there is no such file.
      CheckpointError: it is damaged, hostile, or no checkpoint of torch.save.
    """
    path = Path(path)
    with open_file(path) as file:
        head = file.read(512)
        refuse_pointers(path, head)
        if head.startswith(b"PK\x03\x04"):
            archive = TorchZip(file, path)
            return WeightsUnpickler(archive.pickle(), path, archive.storage).load()
        if is_torch_stream(head):
            return TorchStream(file, path).load()
        refuse(path, f"is no checkpoint of torch.save but {looks_like(head)}. {DOWNLOAD_AGAIN}")
