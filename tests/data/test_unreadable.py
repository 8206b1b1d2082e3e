"""Images that cannot be used are set aside, or named, whatever is raised when one is read."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapes import class_folders
from synthaug.data import folder
from synthaug.data.dataset import Dataset
from synthaug.data.folder import Facts
from synthaug.data.sample import decode_image

RAISED = {
    Image.DecompressionBombError("too large"): "cannot be decoded: too large",
    RuntimeError("Failed to decode frame 0: \n No data"): "cannot be decoded: Failed to decode frame 0: No data",
    NotImplementedError(): "cannot be decoded: NotImplementedError",
    OSError("image file is truncated"): "cannot be decoded: image file is truncated",
}


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, ["a", "b"], 60)
    (tmp_path / "a" / "odd.png").write_bytes(b"odd")

    def decode(data: bytes) -> np.ndarray:
        if data == b"odd":
            raise error
        return decode_image(data)

    monkeypatch.setattr(folder, "decode_image", decode)
    assert dict(Dataset("folder", path=str(tmp_path)).open().quarantined) == {"a/odd.png": RAISED[error]}


def test_what_nobody_may_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, ["a", "b"], 60)
    read, facts = Path.read_bytes, Facts()

    def refused(path: Path) -> bytes:
        if path.name == "7.png" and path.parent.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    dataset = Dataset("folder", path=str(tmp_path))
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert dict(dataset.open(facts).quarantined) == {"a/7.png": "cannot be read: Permission denied"}
    monkeypatch.undo()
    assert not dataset.open(facts).quarantined and dataset.open(facts).digest == dataset.open().digest


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_what_is_no_fault_of_an_image_stops(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, ["a", "b"], 5)

    def decode(data: bytes) -> np.ndarray:
        raise error

    monkeypatch.setattr(folder, "decode_image", decode)
    with pytest.raises(type(error)):
        Dataset("folder", path=str(tmp_path)).open()
