from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from synthaug.data.sample import Sample, decode_image, encode_image, from_parquet, label_matrix, soft_label, to_parquet
from synthaug.settings import UserError

RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def test_every_usual_mode_is_read_rightly() -> None:
    image = Image.fromarray(RGB)
    assert (decode_image(saved(image)) == RGB).all()
    grey = image.convert("L")
    assert (decode_image(saved(grey)) == np.asarray(grey)[..., None]).all()
    palette = image.quantize(16)
    assert (decode_image(saved(palette)) == np.asarray(palette.convert("RGB"))).all()
    cmyk = decode_image(saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"))
    assert np.abs(cmyk.astype(int) - RGB).max() <= 2


def test_sixteen_bit_keeps_its_brightness() -> None:
    wide = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decode_image(saved(Image.fromarray(wide)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_shows_white() -> None:
    rgba = np.dstack([RGB, np.zeros((9, 7), np.uint8)])
    rgba[0, 0, 3] = 255
    seen = decode_image(saved(Image.fromarray(rgba)))
    assert (seen[0, 0] == RGB[0, 0]).all() and (seen.reshape(-1, 3)[1:] == 255).all()


def test_exif_rotation_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter to the right
    turned = decode_image(saved(Image.fromarray(RGB), "PNG", exif=exif))
    assert (turned == np.rot90(RGB, -1)).all()


def test_small_images_are_stored_without_loss_and_large_ones_small() -> None:
    assert (decode_image(encode_image(RGB)) == RGB).all()
    large = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[:, None, None], (1, 300, 3))
    data = encode_image(large)
    assert data[:2] == b"\xff\xd8" and np.abs(decode_image(data).astype(int) - large).max() <= 3


def test_soft_labels_add_repeated_classes_and_sum_to_one() -> None:
    assert soft_label([(3, 0.25), (3, 0.75)]) == ((3, 1.0),)
    assert soft_label([(2, 0.9), (1, 0.1)]) == ((1, 0.1), (2, 0.9))
    for weight in (0.5, float("nan")):
        with pytest.raises(UserError, match="give what is left to a class"):
            soft_label([(1, weight)])
    assert label_matrix([((1, 0.25), (2, 0.75))], 3).tolist() == [[0, 0.25, 0.75]]


def test_a_shard_keeps_every_field_to_the_byte() -> None:
    odd = "wo/man '\"../ü\n"
    sample = Sample("a#1", b"\x00\xff", ((0, 0.1), (2, 0.9)), odd, 2, 1, odd, 2**63 - 1, 0.9, "key")
    assert from_parquet(to_parquet([sample, sample])) == [sample, sample]
    assert to_parquet([sample]) == to_parquet([sample])
