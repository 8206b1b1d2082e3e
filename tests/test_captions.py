"""Tables of suffixes: the one of the package, and one by a captioner of the Hugging Face sort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shapes import class_folders
from synthaug.data import suffixes
from synthaug.data.dataset import Dataset
from synthaug.refs import import_file

CAPTIONS = import_file(str(Path(__file__).parents[1] / "experiments" / "captions.py"))


def test_the_packages_table_is_what_the_script_makes() -> None:
    assert json.loads(json.dumps(CAPTIONS.digits())) == json.loads(suffixes.DIGITS.read_text())
    table = suffixes.read(None)
    assert set(table.images) >= {entry.id for entry in Dataset("digits").open().splits["train"]}
    assert len(table.of_class("7")) == 10


@pytest.fixture
def blip(tmp_path: Path) -> Path:
    """A BLIP of random weights with nine words."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "sofa"]
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(words), "projection_dim": 16, "encoder_hidden_size": 16, **common, **ends}
    vision = {"image_size": 32, "patch_size": 16, **common}
    model: Any = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    processor = BlipImageProcessor(size={"height": 32, "width": 32})
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    model.save_pretrained(tmp_path / "blip")
    BlipProcessor(processor, tokenizer).save_pretrained(tmp_path / "blip")
    return tmp_path / "blip"


def test_a_captioner_describes_every_training_image(blip: Path, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "images", ["cat", "dog"], 6)
    table = CAPTIONS.of_folder(str(blip), str(root))
    train = Dataset("folder", path=str(root)).open().splits["train"]
    assert set(table["images"]) == {entry.id for entry in train} and set(table["classes"]) == {"cat", "dog"}
    listing = Dataset("folder", path=str(root)).open()
    said = CAPTIONS.describe(listing, lambda images, text: [{"generated_text": f" {images.width} wide. "}])
    assert said["classes"]["cat"] == ["8 wide"] and set(said["images"].values()) == {"8 wide"}
