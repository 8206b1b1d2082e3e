"""The tensors in the pickles of NVlabs' EDM (Karras et al. 2022), read without running anything of them.

Such a pickle brings the source code of its networks, and `pickle.load` would run that, or whatever else a file asks
for. Here every call that a file asks for becomes a record of the call. What is found is a state dict under EDM's own
names: no network here takes it, as DhariwalUNet and SongUNet are not rebuilt. Tested with imitations of the format, not
with the published files.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from synthaug.settings import UserError

_NETWORK, _TENSOR = "torch_utils.persistence._reconstruct_persistent_obj", "torch._utils._rebuild_tensor_v2"
_PARAMETER, _STORAGE = "torch._utils._rebuild_parameter", "torch.storage._load_from_bytes"
_DTYPE, _SCALARS = "numpy.dtype", ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_MODULES = tuple(f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential"))
_RECORDED = {_NETWORK, _TENSOR, _PARAMETER, _STORAGE, _DTYPE, *_SCALARS, *_MODULES}
# Built-in types, which a file cannot change: an instruction of pickle may set attributes of whatever it is given.
_CONTAINERS: dict[str, type] = {
    "collections.OrderedDict": OrderedDict, "builtins.set": set, "dnnlib.util.EasyDict": dict,
}  # fmt: skip
# What broken or wicked files raise; pickle's documentation says that it may be more than its own error.
BROKEN = (
    pickle.UnpicklingError, AttributeError, EOFError, IndexError, KeyError, MemoryError, OverflowError, RecursionError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class PickledNetwork:
    """What a pickle says of a network: its class by name, how that was called, and the state dict."""

    class_name: str
    init_args: tuple[Any, ...]
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]


def read(path: str | Path, name: str = "ema") -> PickledNetwork:
    """The network that a pickle of EDM holds under a name; nothing in the file is run, nor imported."""
    try:
        with Path(path).open("rb") as file:
            found = _Recorder(file).load()
        if not isinstance(found, dict) or not _is(found.get(name), _NETWORK):
            raise pickle.UnpicklingError(f"it holds no network called {name!r}")
        return _network(found[name])
    except OSError as error:
        raise UserError(f"cannot read the pickle {str(path)!r}: {error.strerror}") from None
    except BROKEN as error:
        why = str(error).partition("\n")[0] if isinstance(error, pickle.UnpicklingError) else "it is broken"
        raise UserError(f"{path} is no pickle of EDM that can be read without running it: {why}") from None


class _Record:
    """A call that a file asked for, and what its result was to be filled with."""

    __slots__ = ("args", "state")
    name: ClassVar[str]
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Record:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Recorder(pickle.Unpickler):
    """Takes the few names that EDM's pickles hold, and calls nothing that they name."""

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked in _CONTAINERS:
            return _CONTAINERS[asked]
        if asked not in _RECORDED:
            raise pickle.UnpicklingError(f"it asks for {asked!r}")
        # a class, as pickle makes modules by `__new__`; of this file alone, so that no other could find it changed
        return type("_Record", (_Record,), {"__slots__": (), "name": asked})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it names things outside of it")


def _is(value: Any, *names: str) -> bool:
    return isinstance(value, _Record) and value.name in names


def _network(record: _Record) -> PickledNetwork:
    inside, (meta,) = _inside(record), record.args
    args, kwargs = _plain(inside.get("_init_args")), _plain(inside.get("_init_kwargs"))
    name = str(_plain(meta["class_name"]))
    return PickledNetwork(name, tuple(args or ()), dict(kwargs or {}), dict(_tensors(record)))


def _inside(record: Any) -> dict[str, Any]:
    """The attributes of a module: in the description of a network, in the state of a module of torch."""
    found = record.args[0]["state"] if _is(record, _NETWORK) else record.state if _is(record, *_MODULES) else None
    if not isinstance(found, dict):
        raise pickle.UnpicklingError("it holds something other than modules among its modules")
    return found


def _tensors(record: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` would give, under the same names and in the same order."""
    inside = _inside(record)
    passing = inside.get("_non_persistent_buffers_set", ())
    kept = {name: value for name, value in inside["_buffers"].items() if name not in passing}
    for name, value in [*inside["_parameters"].items(), *kept.items()]:
        if value is not None:
            yield f"{prefix}{name}", _tensor(value)
    for name, module in inside["_modules"].items():
        if module is not None:
            yield from _tensors(module, f"{prefix}{name}.")


def _tensor(record: Any) -> Tensor:
    if _is(record, _PARAMETER):
        record = record.args[0]
    if not _is(record, _TENSOR) or not _is(record.args[0], _STORAGE):
        raise pickle.UnpicklingError("it holds something other than tensors among its tensors")
    storage, offset, size, stride, *_ = record.args
    return _numbers(*storage.args).as_strided(size, stride, offset)  # refuses what is out of bounds


def _numbers(raw: bytes) -> Tensor:
    """All numbers of a storage, in a row."""
    try:
        storage: Any = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        storage = None  # torch's message has many lines, some on how to run it all the same
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a storage holds something other than numbers")
    # as torch's own rebuilding takes it: the public name of it warns
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


def _plain(value: Any) -> Any:
    """Arguments as plain values; numpy's numbers as Python's."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_plain(item) for item in value)
    if _is(value, *_SCALARS) and _is(value.args[0], _DTYPE):
        kind, raw = value.args
        dtype = np.dtype(f"{kind.state[1]}{kind.args[0]}")  # such as < and f8
        if dtype.kind in "biuf":
            return np.frombuffer(raw, dtype, 1)[0].item()
    raise pickle.UnpicklingError("the arguments of its network hold something other than numbers and texts")
