"""Published data sets whose lists are MATLAB files: Oxford's flowers and Stanford's cars."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from synthaug.data.folder import AT, Files
from synthaug.data.layouts import present
from synthaug.settings import UserError

T = TypeVar("T")
LABELLED = "cars_test_annos_withlabels.mat"
CARS = ("cars_train", "cars_test", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat")
SETS = {"train": "trnid", "val": "valid", "test": "tstid"}  # split -> what setid.mat calls it
# the classes by their numbers in imagelabels.mat, which has no names: those of the data set's page
FLOWERS = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth",
    "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower",
    "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea",
    "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)  # fmt: skip


def flowers(root: Path) -> Files:
    """Oxford's 102 flowers: jpg/image_00001.jpg, imagelabels.mat, setid.mat with the official three splits."""
    labels = _matlab(root / "imagelabels.mat", lambda found: [int(label) for label in found["labels"].flat])
    sets = _matlab(root / "setid.mat", lambda found: {s: [int(i) for i in found[key].flat] for s, key in SETS.items()})
    numbers = {number for named in sets.values() for number in named}
    if unknown := numbers - set(range(1, len(labels) + 1)):
        said = f"speaks of image {min(unknown)}, which imagelabels.mat does not know"
        raise UserError(f"{root / 'setid.mat'} {said}; download both again", AT)
    # the images are numbered from 1, as their classes are
    label = {i: _counted(labels[i - 1], len(FLOWERS), root / "imagelabels.mat") for i in numbers}
    splits = {split: {f"jpg/image_{i:05d}.jpg": label[i] for i in named} for split, named in sets.items()}
    return present(root, Files(FLOWERS, splits))


def cars(root: Path) -> Files:
    """Stanford's cars: cars_train/, cars_test/, devkit/ with the names and the labels of train; those of test, which
    were published later, lie there or beside it."""
    names = _matlab(
        root / "devkit" / "cars_meta.mat", lambda found: tuple(str(n.item()) for n in found["class_names"].flat)
    )
    tests = next((path for path in (root / LABELLED, root / "devkit" / LABELLED) if path.is_file()), None)
    if tests is None:
        raise UserError(f"{LABELLED} is neither in {str(root)!r} nor in its devkit/; download it to either", AT)
    lists = {"train": root / "devkit" / "cars_train_annos.mat", "test": tests}
    splits = {
        split: {
            f"cars_{split}/{image}": _counted(label, len(names), path) for image, label in _matlab(path, _annotated)
        }
        for split, path in lists.items()
    }
    return present(root, Files(names, splits))


def _annotated(found: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The name and the number of the class of each image, of the list that Stanford's devkit keeps."""
    # MATLAB has matrices only, even of one word
    return [(str(row["fname"].item()), int(row["class"].item())) for row in found["annotations"].flat]


def _matlab(path: Path, read: Callable[[Mapping[str, Any]], T]) -> T:
    """What `read` finds in a MATLAB file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}; download it again", AT)
    try:
        return read(loadmat(path))
    # what scipy is known to raise on broken files, and `read` on files with other contents
    except (MatReadError, NotImplementedError, OSError, ValueError, TypeError, LookupError, zlib.error):
        raise UserError(f"{path} is damaged, or not the file of this name; download it again", AT) from None


def _counted(number: int, classes: int, path: Path) -> int:
    """The class index of a number that counts from 1."""
    if not 1 <= number <= classes:
        raise UserError(f"{path} speaks of class {number}, but there are {classes}; download it again", AT)
    return number - 1
