"""Sample: an image, a soft label and where it came from; how it is stored as a row."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.settings import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Label = tuple[tuple[int, float], ...]
PNG_UP_TO = 64  # px: small images are stored without loss, larger ones as JPEG 95 (60 times cheaper to encode)

# what is the fault of the machine and of no image: no room on a disk or in memory, too many open files
OF_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its label as (class index, weight) pairs; a generated one also carries its lineage."""

    id: str
    image: bytes
    label: Label
    source: str = ""
    target: int = -1  # the class that was asked for, which a soft label alone does not tell
    variant: int = 0
    prompt: str = ""
    seed: int = 0  # 63 bits, so that it fits a signed column
    strength: float = 0.0
    method: str = ""


def soft_label(pairs: Iterable[tuple[int, float]]) -> Label:
    """Pairs with a repeated class added up, sorted by class; the weights must sum to 1."""
    # added, not assigned: Diff-Mix may draw the source's own class as target, and (1 - w) + w must be 1 there
    total: dict[int, float] = {}
    for index, weight in pairs:
        total[int(index)] = total.get(int(index), 0.0) + float(weight)
    if not abs(sum(total.values()) - 1) < 1e-9:  # so that NaN is refused too
        said = f"the weights of a label sum to {sum(total.values()):g}, not to 1"
        raise UserError(f"{said}; give what is left to a class, such as the one of the source")
    return tuple(sorted(total.items()))


def label_matrix(labels: Sequence[Label], classes: int) -> np.ndarray:
    """Labels as an N x C float64 matrix."""
    matrix = np.zeros((len(labels), classes))
    for row, label in enumerate(labels):
        for index, weight in label:
            matrix[row, index] += weight
    return matrix


def decode_image(data: bytes) -> np.ndarray:
    """Bytes of any usual image as uint8 HWC RGB: upright, alpha on white, 16 bit scaled to 8, floats as shown."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)  # cameras turn the picture by a tag, not by its pixels
        if image.mode.startswith("I;16") or image.mode == "I":
            # Pillow's own conversion to 8 bits would cut at 255; 257 = 65,535 / 255
            wide = np.asarray(image).astype(np.float64)
            image = Image.fromarray(np.clip(np.rint(wide / 257), 0, 255).astype(np.uint8))
        if image.mode == "F":
            image = Image.fromarray(_shown(np.asarray(image)))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.array(image.convert("RGB"))


def why_unreadable(error: Exception) -> str:
    """Why an image cannot be used, by what was raised while it was read and decoded, in a line; what is no fault of the
    image is raised again."""
    from PIL import UnidentifiedImageError

    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in OF_MACHINE):
        raise error
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:  # of the system, not of a decoder
        return f"cannot be read: {error.strerror}"
    # no list of what decoders raise: each has its own, and a new one must not end in a traceback
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"


def image_sort(data: bytes) -> str:
    """What Pillow calls the kind of pixels of an image: "RGB", "F" for floats."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        return opened.mode


def _shown(values: np.ndarray) -> np.ndarray:
    """Floats as uint8: those in [0, 1] or in [0, 255] are that, others run from the lowest to the highest."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        values = (values - low) / (high - low or 1) * 255
    elif high <= 1:
        values = values * 255
    shown: np.ndarray = np.rint(values).astype(np.uint8)
    return shown


def encode_image(pixels: np.ndarray, *, lossless: bool = False) -> bytes:
    """uint8 HWC RGB as PNG when small or to be kept as it is, else JPEG; equal pixels give equal bytes."""
    from PIL import Image

    out = io.BytesIO()
    if lossless or max(pixels.shape[:2]) <= PNG_UP_TO:
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    else:
        # subsampling 0: colour at full resolution
        Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def resize_image(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """Squash to size x size, bicubic, as the published methods do; None leaves the size."""
    from PIL import Image

    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def schema() -> pa.Schema:
    """The columns of a shard."""
    import pyarrow as pa

    # weights in double, so that they sum to 1 after the journey too
    label = pa.list_(pa.struct([("class", pa.int32()), ("weight", pa.float64())]))
    text = ["source", "prompt", "method"]
    columns = [("id", pa.string()), ("image", pa.binary()), ("label", label), ("target", pa.int32())]
    columns += [("variant", pa.int32()), ("seed", pa.int64()), ("strength", pa.float64())]
    return pa.schema(columns + [(name, pa.string()) for name in text])


def to_row(sample: Sample) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in schema().names}
    return row | {"label": [{"class": index, "weight": weight} for index, weight in sample.label]}


def from_row(row: dict[str, Any]) -> Sample:
    return Sample(**row | {"label": tuple((pair["class"], pair["weight"]) for pair in row["label"])})


def to_parquet(samples: Sequence[Sample]) -> bytes:
    """A shard; equal samples give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    # uncompressed, because images are compressed already
    pq.write_table(pa.Table.from_pylist([to_row(s) for s in samples], schema()), out, compression="none")
    return bytes(out.getvalue())


def from_parquet(data: bytes) -> list[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return [from_row(row) for row in pq.ParquetFile(pa.BufferReader(data)).read().to_pylist()]
