"""Pickles in the manner of EDM's, written here by classes that bring their source code as its do."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthaug.diffusion.edm_pickle import read
from synthaug.settings import UserError

RAN: list[str] = []
SOURCE = "import pathlib\npathlib.Path({!r}).write_text('ran')\nclass Net: pass\n"  # runs when it is imported


@pytest.fixture(autouse=True)
def persistence(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The module that EDM's pickles name; pickle only writes the name of what it can import."""
    module: Any = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        RAN.append("rebuilt")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    RAN.clear()
    yield module
    assert not RAN, "something of a pickle was run"


class Persistent(nn.Module):
    """Pickled as EDM's decorator does it: by the source of the module, the name of the class, and what is inside."""

    source = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._init_args, self._init_kwargs = args, kwargs

    def __reduce_ex__(self, protocol: Any) -> Any:
        persistence: Any = sys.modules["torch_utils.persistence"]
        meta = {
            "type": "class", "version": 6, "module_src": self.source, "class_name": type(self).__name__,
            "state": dict(self.__dict__),
        }  # fmt: skip
        return persistence._reconstruct_persistent_obj, (meta,), None, None, None


class Conv(Persistent):
    def __init__(self, channels: int, **more: Any) -> None:
        super().__init__(channels, **more)
        generator = torch.Generator().manual_seed(channels)
        self.weight = nn.Parameter(torch.randn(channels, 3, 2, generator=generator).transpose(0, 1))
        self.bias = nn.Parameter(torch.randn(channels, generator=generator).half())
        self.register_parameter("gain", None)
        self.register_buffer("filter", torch.arange(4)[1:3])
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        self.skip = None


class Loss:
    """Beside the network there is more, which nobody asks for."""

    def __reduce__(self) -> Any:
        persistence: Any = sys.modules["torch_utils.persistence"]
        return persistence._reconstruct_persistent_obj, ({"class_name": "Loss", "state": {"P_mean": -1.2}},)


class Net(Persistent):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.enc = nn.ModuleDict({"64x64_conv": Conv(4, init_weight=np.sqrt(0.2)), "64x64_aux": Conv(5)})
        self.blocks = nn.ModuleList([Conv(6)])
        self.register_buffer("sigma", torch.tensor(0.5, dtype=torch.float64))


KWARGS: dict[str, Any] = {
    "img_resolution": 64, "label_dim": 0, "model_type": "DhariwalUNet", "channel_mult": [1, 2], "scale": np.float64(0.5),
    "steps": np.int32(7), "fine": np.bool_(True), "attn": {"eps": 1e-6, "of": (16, 8)}, "mode": None,
}  # fmt: skip


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_tensors_are_those_of_the_network(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(**KWARGS)
    path = written(tmp_path / "edm.pkl", {"ema": net, "loss_fn": Loss(), "dataset_kwargs": {"path": "x"}}, protocol)
    monkeypatch.delitem(sys.modules, "torch_utils.persistence")
    found, expected = read(path), net.state_dict()
    assert found.class_name == "Net" and found.init_args == ()
    assert found.init_kwargs == KWARGS and type(found.init_kwargs["scale"]) is float
    assert list(found.state) == list(expected) and "enc.64x64_conv.scratch" not in found.state
    for name, value in expected.items():
        assert found.state[name].dtype == value.dtype and torch.equal(found.state[name], value)
    assert "torch_utils.persistence" not in sys.modules


def test_the_source_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Persistent, "source", SOURCE.format(str(tmp_path / "ran")))
    assert read(written(tmp_path / "edm.pkl", {"ema": Net()})).class_name == "Net"
    assert not (tmp_path / "ran").exists()


class Asks:
    """A pickle that calls something."""

    def __init__(self, what: Callable[..., Any], *args: Any) -> None:
        self.call = what, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "what, args, said",
    [
        (os.system, ("touch ran",), "it asks for 'posix.system'"),
        (eval, ("open('ran', 'w')",), "it asks for 'builtins.eval'"),
        (exec, ("open('ran', 'w')",), "it asks for 'builtins.exec'"),
        (getattr, ("x", "upper"), "it asks for 'builtins.getattr'"),
        (open, ("ran", "w"), "it asks for '_?io.open'"),
        (torch.load, ("ran",), "it asks for 'torch.serialization.load'"),
        (RAN.append, ("ran",), "it asks for 'builtins.getattr'"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_else_is_called(
    what: Any, args: Any, said: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = said.replace("builtins", "(builtins|__builtin__)")
    net, asks = Net(), Asks(what, *args)
    net.__dict__["inside"] = asks
    for content in (asks, {"ema": asks}, {"ema": net}, {"ema": Net(), "more": asks}):
        if protocol < 3 and isinstance(content, dict) and content["ema"].__class__ is Net:
            continue  # of these protocols the bytes of storages are calls, too
        with pytest.raises(UserError, match=said) as refused:
            read(written(tmp_path / "edm.pkl", content, protocol))
        assert "\n" not in str(refused.value)
    assert not Path("ran").exists()


def storage(raw: bytes) -> Asks:
    return Asks(torch.storage._load_from_bytes, raw)  # as tensors are pickled


def tensor(storage: Any, offset: Any = 0, size: Any = (2,), stride: Any = (1,)) -> Asks:
    return Asks(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


class Holder(Persistent):
    """A network with anything in the place of a tensor."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.__dict__["_parameters"] = {"weight": value}


def numbers() -> Any:
    return torch.arange(4.0).storage()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "value, said",
    [
        (lambda: tensor(storage(pickle.dumps(Asks(os.system, "touch ran"), 2))), "a storage holds something other than"),
        (lambda: tensor(storage(b"")), "it is broken"),
        (lambda: tensor("x"), "other than tensors among its tensors"),
        (lambda: storage(b""), "other than tensors among its tensors"),
        (lambda: 3, "other than tensors among its tensors"),
        (lambda: tensor(numbers(), 3), "it is broken"),
        (lambda: tensor(numbers(), -1), "it is broken"),
        (lambda: tensor(numbers(), 0, (10**12,)), "it is broken"),
        (lambda: tensor(numbers(), 0, ("x",)), "it is broken"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_refused(value: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as refused:
        read(written(tmp_path / "edm.pkl", {"ema": Holder(value())}))
    assert "\n" not in str(refused.value) and not Path("ran").exists()
    whole: Tensor = read(written(tmp_path / "edm.pkl", {"ema": Holder(tensor(numbers()))})).state["weight"]
    assert whole.tolist() == [0, 1]


NAMED = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
ARCHIVE = io.BytesIO()
torch.save({"weight": torch.zeros(1)}, ARCHIVE)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "it is broken"),
        (ARCHIVE.getvalue(), "persistent IDs"),
        (b"<html>", "invalid load key, '<'"),
        (pickle.dumps([1]), "it holds no network called 'ema'"),
        (pickle.dumps({"ema": {"weight": 1}}), "it holds no network called 'ema'"),
        (b"\x80\x04ccollections\nOrderedDict.fromkeys\n.", "it asks for 'collections.OrderedDict.fromkeys'"),
        (b"\x80\x04Px\n.", "it names things outside of it"),
        # attributes of a name itself, which would be there for the next file
        (b"\x80\x04" + NAMED + b"N}\x8c\x04nameK\x01s\x86b.", "it is broken"),
        (b"\x80\x04ccollections\nOrderedDict\nN}\x8c\x04nameK\x01s\x86b.", "it is broken"),
    ],
)
def test_other_files_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "edm.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"edm.pkl is no pickle of EDM .*: {said}") as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert read(written(path, {"ema": Net()})).class_name == "Net"
    with pytest.raises(UserError, match="cannot read the pickle .*: No such file"):
        read(tmp_path / "nowhere.pkl")


def test_odd_networks_are_refused(tmp_path: Path) -> None:
    circle, module, dated = Net(), Net(), Net(of=np.datetime64("2020"))
    circle.__dict__["_modules"] = {"again": circle.__dict__}
    module.__dict__["_modules"] = {"list": [Conv(3)]}
    for net, said in (
        (circle, "among its modules"),
        (module, "among its modules"),
        (dated, "arguments of its network"),
    ):
        with pytest.raises(UserError, match=said):
            read(written(tmp_path / "edm.pkl", {"ema": net}))
