"""The published data sets of the UniDiffDA protocol: where their files are, how prompts speak of them, how many images
a class the protocol trains on; others that classifiers are compared on; and those that ask how robust a classifier of
ImageNet is, which have test images only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from synthaug.data import layouts, mat_layouts
from synthaug.data.archive import afhqv2, ffhq, folder_or_zip
from synthaug.data.cifar import CIFAR10, CIFAR100, Cifar, cifar
from synthaug.data.folder import AT, Facts, class_folders, cut
from synthaug.data.idx import fashion
from synthaug.data.layouts import ANY_NAME, WORDNET, Found, Reader, on_disk, only_tests
from synthaug.data.listing import Entry, Listing
from synthaug.settings import UserError, canonical

PHOTO = "a photo of a {}"


@dataclass(frozen=True)
class Published:
    """What is known of a data set.

    `needs` are files and folders below the user's path, or below `folder` there, the one in the official archive.
    `shots` are the protocol's images a class, none if it trains on all; `size` is what its classifiers squash images
    to. Class words are class names with spaces for underscores (the paper keeps the underscores) unless `words` or the
    files say better. `places` are those of its classes among ImageNet's 1,000, if it calls them otherwise.
    """

    read: Reader
    folder: str
    needs: tuple[str, ...]
    shots: tuple[int, ...] = ()
    prompt: str = PHOTO
    super_class: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    size: int = 256
    layout: str = ""  # `needs` in words
    places: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    package: str = ""


def open_published(
    name: str, path: str | None, class_words: Mapping[str, str], val_share: float, shots: int | None, facts: Facts
) -> Listing:
    """The data set called `name` with its official train and test images.

    Where it has no validation split, `val_share` of each class of the official training images choose the model (by
    the hash of their pixels, equal images together), or fewer where `shots` of a class, or one, would not be left; the
    k-shot subsets are drawn from the others. Images that are in the test set as well are counted, not changed.
    """
    known = PUBLISHED[name]
    found = known.read(_root(name, known, path), facts)
    splits = {split: tuple(entries) for split, entries in found.splits.items()}
    # before anything is cut off: what is told is a fact of the official sets
    notes = twins(splits) if "train" in splits else ()
    if "train" in splits and "val" not in splits:
        train, val = cut(splits["train"], (val_share,), keep=shots or 1)
        splits |= {"train": tuple(train), "val": tuple(val)}
        notes += (f"no official validation split: {len(val)} training images choose the model",)
    words = _words(name, known, found, class_words)
    # official labels and words enter, the validation split does not: it follows from settings that are keyed already
    told = found.splits if "train" in splits else {}  # the content of the others has their labels
    labels = {split: [[e.id, e.label] for e in entries] for split, entries in told.items()}
    about = [found.classes, words, known.prompt, known.super_class, labels, found.content]
    digest = hashlib.sha256(canonical(about)).hexdigest()
    return Listing(found.classes, words, splits, digest, found.read, found.bad, notes)


def _root(name: str, known: Published, path: str | None) -> Path:
    """Where the files begin: at the path, or in the folder of the official archive there."""
    layout = f"a folder with {known.layout or ', '.join(known.needs)}, or with {known.folder}/ that has them"
    if path is None and known.package and Path(known.package).is_dir():
        path = known.package
    if not path:
        way = f" or apt-get install dataset-{known.folder}" if known.package else ""
        raise UserError(f"{name} does not come with the package; --set dataset.path=DIR, {layout}{way}", AT)
    given = Path(path).expanduser()
    if given.is_file() and given.suffix == ".zip" and not known.needs:
        return given
    root = given / known.folder if (given / known.folder).is_dir() else given
    # before a walk over what may be a million files
    missing = [root / need for need in known.needs if not (root / need).exists()] if root.is_dir() else [root]
    if missing:
        raise UserError(f"{str(missing[0])!r} is not there; {name} needs {layout}", AT)
    return root


def _words(name: str, known: Published, found: Found, given: Mapping[str, str]) -> tuple[str, ...]:
    """What the classes are called in prompts: as the user says, as the files say, as the table says, or by name."""
    words = {
        cls: given.get(cls) or found.words.get(cls) or known.words.get(cls.lower()) or cls.replace("_", " ")
        for cls in found.classes
    }
    # a prompt with n01440764 in it would be drawn without complaint, and show anything
    nameless = [cls for cls, word in words.items() if WORDNET.fullmatch(word)]
    if nameless and "train" in found.splits:  # nothing is made of test images
        way = f"put {layouts.SYNSETS} beside train/, or give dataset.class_words"
        raise UserError(f"{name}: {len(nameless)} classes have no words, the first is {nameless[0]!r}; {way}", AT)
    return tuple(words[cls] for cls in found.classes)


def twins(splits: Mapping[str, Sequence[Entry]]) -> tuple[str, ...]:
    # counted, not dropped: numbers must compare with published ones, which have them
    test = {entry.pixels for entry in splits["test"]}
    count = sum(entry.pixels in test for entry in splits["train"])
    return (f"{count} training images are in the test set as well",) if count else ()


# HAM10000's abbreviations, which no text encoder knows
SKIN = {
    "akiec": "actinic keratosis", "bcc": "basal cell carcinoma", "bkl": "benign keratosis", "df": "dermatofibroma",
    "mel": "melanoma", "nv": "melanocytic nevus", "vasc": "vascular lesion",
}  # fmt: skip
# the classes of ImageNet-D by their places among ImageNet's 1,000; of several, any is right (Zhang et al. 2024)
IMAGENET_D: dict[str, tuple[int, ...]] = {
    "alarm_clock": (409, 530), "backpack": (414,), "banana": (954,), "band_aid": (419,), "bath_towel": (434,),
    "beer_bottle": (440,), "bench": (703,), "bicycle": (671, 444), "binder_closed": (446,), "bottle_cap": (455,),
    "bread_loaf": (930,), "broom": (462,), "bucket": (463,), "can_opener": (473,), "candle": (470,),
    "cellphone": (487,), "chair": (423, 559, 765), "cleaver": (499,), "clothes_hamper": (588,),
    "coffee_or_french_press": (550,), "combination_lock": (507,), "computer_mouse": (673,), "desk_lamp": (846,),
    "dishcloth": (533,), "doormat": (539,), "dress_shoe_men": (630,), "drill": (740,),
    "drying_rack_for_plates": (729,), "envelope": (549,), "fan": (545,), "frying_pan": (567,), "gown": (578,),
    "hair_dryer": (589,), "hammer": (587,), "helmet": (560, 518), "iron_for_clothes": (606,), "jeans": (608,),
    "keyboard": (508,), "ladle": (618,), "lampshade": (619,), "laptop_open": (620,), "lemon": (951,),
    "letter_opener": (623,), "lighter": (626,), "lipstick": (629,), "matchstick": (644,), "measuring_cup": (647,),
    "microwave": (651,), "mixing_or_salad_bowl": (659,), "monitor": (664,), "mug": (504,), "nail_fastener": (677,),
    "necklace": (679,), "orange": (950,), "padlock": (695,), "paintbrush": (696,), "paper_towel": (700,),
    "pen": (418, 749, 563), "pill_bottle": (720,), "pillow": (721,), "pitcher": (725,), "plastic_bag": (728,),
    "plate": (923,), "plunger": (731,), "pop_can": (737,), "portable_heater": (811,), "printer": (742,),
    "remote_control": (761,), "ruler": (769,), "running_shoe": (770,), "safety_pin": (772,), "salt_shaker": (773,),
    "sandal": (774,), "screw": (783,), "shopping_basket": (790,), "shovel": (792,), "skirt": (601, 655, 689),
    "sleeping_bag": (797,), "soap_dispenser": (804,), "sock": (806,), "soup_bowl": (809,), "spatula": (813,),
    "speaker": (632,), "still_camera": (732, 759), "strainer": (828,), "suit_jacket": (834,), "sunglasses": (837,),
    "sweater": (841,), "swimming_trunks": (842,), "t_shirt": (610,), "tea_cup": (968,), "teapot": (849,),
    "teddy_bear": (850,), "tennis_racket": (752,), "tie": (457, 906), "toaster": (859,), "toilet_paper_roll": (999,),
    "trash_bin": (412,), "tray": (868,), "tv": (851,), "umbrella": (879,), "vacuum_cleaner": (882,), "vase": (883,),
    "wallet": (893,), "watch": (531,), "water_bottle": (898,), "weight_exercise": (543,), "weight_scale": (778,),
    "wheel": (479, 694), "whistle": (902,), "wine_bottle": (907,), "winter_glove": (658,), "wok": (909,),
}  # fmt: skip
MEDICAL = "train/ and test/ with class folders"
IMAGENET = "train/ and val/ (or test/) with class folders"
WORDNET_FOLDERS = "class folders such as n01440764"
CORRUPTED = "folders such as gaussian_noise/1 or noise/gaussian_noise/1"
CALTECH = "train/ and test/ with class folders, or with the class folders of the official archive"
CARS = f"{', '.join(mat_layouts.CARS)} and {mat_layouts.LABELLED} (there or in devkit/)"


def _semi_inat(level: str) -> Published:
    return Published(on_disk(partial(layouts.semi_inat, level=level)), "semi_inat", ("l_train", "val"))


def _tests(find: Callable[[Path], Mapping[str, Path]], folder: str, layout: str = WORDNET_FOLDERS) -> Published:
    return Published(only_tests(find), folder, (), layout=layout)


def _cifar(name: str, kind: Cifar, shots: tuple[int, ...], folder: str) -> Published:
    return Published(cifar(name, kind), folder, (kind.meta, *kind.train, *kind.test), shots)


PUBLISHED = {
    "cifar10": _cifar("cifar10", CIFAR10, (), "cifar-10-batches-py"),
    # shots: images a class as UniDiffDA's tables have them, several where a table has a column for each
    "cifar100": _cifar("cifar100", CIFAR100, (100,), "cifar-100-python"),
    "fashion": Published(
        fashion, "fashion-mnist", (), layout="its four IDX files", package="/usr/share/datasets/fashion-mnist"
    ),
    # of one class, and of three: what diffusion models are trained on
    "ffhq": Published(folder_or_zip(ffhq), "ffhq", (), layout="its images at any depth, or a zip file of them"),
    "afhqv2": Published(
        folder_or_zip(afhqv2), "afhq", (), layout="train/ and test/ with cat/, dog/ and wild/, or a zip file of them"
    ),
    "caltech101": Published(on_disk(layouts.caltech), "101_ObjectCategories", (), (25,), layout=CALTECH),
    "imagenet100": Published(
        on_disk(layouts.imagenet, decode=False), "ImageNet100", ("train",), (250,), layout=IMAGENET
    ),
    "imagenet1k": Published(on_disk(layouts.imagenet, decode=False), "imagenet", ("train",), (25,), layout=IMAGENET),
    # what asks how robust a classifier of ImageNet is; the folders are those that the official archives unpack into
    "imagenet-c": _tests(layouts.imagenet_c, "ImageNet-C", CORRUPTED),
    "imagenet-r": _tests(layouts.class_root, "imagenet-r"),
    "imagenet-a": _tests(layouts.class_root, "imagenet-a"),
    "imagenet-sketch": _tests(layouts.class_root, "sketch"),
    "imagenet-s": _tests(layouts.class_root, "val"),
    "imagenet-d": Published(
        only_tests(layouts.imagenet_d, ANY_NAME), "ImageNet-D", ("background", "material", "texture"), places=IMAGENET_D
    ),
    "cub": Published(
        on_disk(layouts.cub),
        "CUB_200_2011",
        ("images.txt", "train_test_split.txt", "classes.txt", "images"),
        (1, 5, 10),
        super_class="bird",  # the metaclass word of Diff-Aug's, Diff-Mix's and Diff-II's prompts
    ),
    "aircraft": Published(
        on_disk(layouts.aircraft),
        "fgvc-aircraft-2013b",
        ("data/variants.txt", *(f"data/images_variant_{split}.txt" for split in ("train", "val", "test"))),
        (1, 5, 10),
        super_class="aircraft",
    ),
    # not of UniDiffDA's: two more fine-grained sets, and ImageNet for small nets
    "flowers102": Published(
        on_disk(mat_layouts.flowers), "flowers-102", ("jpg", "imagelabels.mat", "setid.mat"), super_class="flower"
    ),
    "cars": Published(on_disk(mat_layouts.cars), "stanford_cars", mat_layouts.CARS, super_class="car", layout=CARS),
    "tiny-imagenet": Published(
        on_disk(layouts.tiny_imagenet),
        "tiny-imagenet-200",
        ("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"),
        size=64,
    ),
    # medical sets and DomainNet have prompts of their own in UniDiffDA, all others "a photo of a {}"
    "blood": Published(
        on_disk(class_folders),
        "Blood",
        ("train", "test"),
        (5, 25),
        "a microscopic blood cell image of {}",
        words={"ig": "immature granulocyte"},
        layout=MEDICAL,
    ),
    "skin": Published(
        on_disk(class_folders),
        "Skin",
        ("train", "test"),
        (10, 50),
        "a dermatoscopic image of {}",
        words=SKIN,
        layout=MEDICAL,
    ),
    # the same images at three levels of the taxonomy: UniDiffDA's question of granularity
    "semi_inat_species": _semi_inat("species"),
    "semi_inat_family": _semi_inat("family"),
    "semi_inat_order": _semi_inat("order"),
    "domainnet": Published(
        on_disk(layouts.domainnet, decode=False), "DomainNet", ("real",), (20,), "a real image of a {}"
    ),
}
