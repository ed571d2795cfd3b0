"""Read torch.save files without torch and without executing code from the file.

A pickle can call any function that it names. This reader imports nothing: it rebuilds tensors and
plain containers itself, and everything else becomes an inert Opaque object. The format is that of
torch/serialization.py: a zip archive with `data.pkl` and one file per storage.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check import visible
from parity_check.errors import InputError
from parity_check.reading import INTEGERS, read_bytes

STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "?", "UntypedStorage": "<u1",
}  # fmt: skip
DTYPES = {
    "torch.float64": "<f8", "torch.float32": "<f4", "torch.float16": "<f2", "torch.bfloat16": "<u2",
    "torch.int64": "<i8", "torch.int32": "<i4", "torch.int16": "<i2", "torch.int8": "<i1",
    "torch.uint8": "<u1", "torch.bool": "?",
}  # fmt: skip
MOST_BYTES = 1 << 36
MALFORMED = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, AttributeError),
    *(TypeError, ValueError, OverflowError, NotImplementedError, RecursionError, MemoryError),
    *(RuntimeError, AssertionError, zlib.error),
)
"""The exceptions that reading a damaged file can raise."""


ENCRYPTED = 1
"""Among the flags of a member; torch.save neither encrypts nor compresses."""


class Opaque:
    """A placeholder for an object whose class is not imported: its name, arguments and state."""

    named = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> Opaque:
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, *_: Any) -> None: ...

    def extend(self, *_: Any) -> None: ...


def is_archive(path: Path) -> bool:
    """Whether a file starts like a torch.save file. Raises InputError."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise InputError(f"cannot read the dump {path}: {error.strerror}") from None


def read_torch(path: Path) -> Any:
    """The object in a torch.save file, with tensors as numpy arrays. Raises InputError."""
    raw = read_bytes(path, "the dump", MOST_BYTES)
    if not raw:
        raise InputError(f"{path}: the file is empty")
    if not raw.startswith(b"PK"):
        raise InputError(
            f"{path}: not a torch.save file",
            hint="torch before 1.6 used another format: load and save the file again with a newer "
            "torch",
        )
    return _guarded(path, lambda: load_archive(raw))


def read_pickle(path: Path) -> Any:
    """The object in a pickle, without importing anything. Raises InputError."""
    raw = read_bytes(path, "the dump", MOST_BYTES)
    if not raw:
        raise InputError(f"{path}: the file is empty")
    return _guarded(path, lambda: _Unpickler(io.BytesIO(raw), None).load())


def load_archive(raw: bytes) -> Any:
    """The object in the bytes of a torch.save file. Raises one of MALFORMED."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for member in archive.infolist():
            if member.flag_bits & ENCRYPTED or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is encrypted or compressed")
        found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise ValueError("a ZIP archive, but not of torch.save: it needs one data.pkl")
        [pickled] = found
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != (
            b"little"
        ):
            raise ValueError("big-endian storages")
        return _Unpickler(io.BytesIO(archive.read(pickled)), (archive, root)).load()


def guarded_archive(raw: Any, path: Path) -> Any:
    """The object in torch.save data inside another file. Raises InputError."""
    return _guarded(path, lambda: load_archive(raw))


def decoded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Convert bfloat16, which numpy does not have, to float32."""
    if "bfloat16" in dtype.lower():
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


class _Unpickler(pickle.Unpickler):
    """Rebuilds containers and tensors; `archive` has the storages, under a root directory."""

    def __init__(self, stream: io.BytesIO, archive: tuple[zipfile.ZipFile, str] | None) -> None:
        super().__init__(stream)
        self.archive = archive
        self.storages: dict[str, NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        named = f"{module}.{name}"
        known = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._tensor._rebuild_from_type_v2": _of_type,
            "torch.nested._internal.nested_tensor._rebuild_njt": _jagged,
            "collections.OrderedDict": dict,
            "torch.Size": tuple,
        }
        return known.get(named) or type("Opaque", (Opaque,), {"named": named})

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        _, kind, key, _, count = pid
        if self.archive is None:
            raise pickle.UnpicklingError("a storage outside an archive")
        if key not in self.storages:
            archive, root = self.archive
            name = kind.named.rpartition(".")[2]
            values = np.frombuffer(archive.read(f"{root}data/{key}"), dtype=STORAGES[name])
            if len(values) < count:
                raise ValueError("a storage is truncated")
            self.storages[key] = decoded(values, name)
        return self.storages[key]


def _tensor(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    """The tensor of this shape in a storage; checked to be inside the storage."""
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise ValueError("a tensor of an impossible shape")
    count = int(np.prod(size, dtype=np.int64)) if size else 1
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (count > len(storage) or last >= len(storage)):
        raise ValueError("a tensor beyond its storage")
    if not count:
        return np.zeros(size, storage.dtype)
    index = np.full(size, offset, np.int64)
    for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
        index += (np.arange(n) * step).reshape(
            [-1 if each == axis else 1 for each in range(len(size))]
        )
    found: NDArray[Any] = storage[index]
    return found


def _of_type(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with extra attributes or of a subclass; only jagged tensors are supported."""
    if rebuild in (_tensor, _jagged):
        return rebuild(*arguments)
    return Opaque(kind, arguments, state)


def _jagged(state: Any) -> list[NDArray[Any]]:
    """A jagged tensor as a list of rows: `values` cut at `offsets`."""
    values, offsets, lengths = state["values"], state["offsets"], state.get("lengths")
    if state.get("_ragged_idx", 1) != 1 or offsets.ndim != 1:
        raise ValueError("a jagged tensor that is not ragged along its second axis")
    starts = offsets[:-1].tolist()
    ends = offsets[1:].tolist() if lengths is None else (offsets[:-1] + lengths).tolist()
    if any(not 0 <= first <= last <= len(values) for first, last in zip(starts, ends, strict=True)):
        raise ValueError("a jagged tensor beyond its values")
    return [values[first:last] for first, last in zip(starts, ends, strict=True)]


def _refuse_huge_integers(tree: Any) -> None:
    """An integer may have any length in a pickle. Raises OverflowError for one beyond 64 bits."""
    seen: set[int] = set()
    left = [tree]
    while left:
        value = left.pop()
        if isinstance(value, int) and not INTEGERS[0] <= value <= INTEGERS[1]:
            raise OverflowError("an integer beyond 64 bits")
        if not isinstance(value, dict | list | tuple | Opaque) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, Opaque):
            left += [value.arguments, value.state]
        else:
            left += value


def _guarded(path: Path, load: Any) -> Any:
    try:
        tree = load()
        _refuse_huge_integers(tree)
        return tree
    except MALFORMED as error:
        reason = visible.message(str(error).partition("\n")[0], 200) or type(error).__name__
        raise InputError(f"{path}: damaged or truncated: {reason}") from None
