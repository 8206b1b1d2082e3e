"""Clip: which CLIP model judges how well images fit texts. Loading it gives a Scorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from synthaug.settings import UserError, settings
from synthaug.weights import Weights, files_of

if TYPE_CHECKING:
    from synthaug.scorer import Scorer as Scorer


@settings
class Clip(Weights):
    """A CLIP model, and the factor of its cosines inside a softmax."""

    MARK: ClassVar[str] = "config.json"
    SORT: ClassVar[str] = "CLIP model"
    WAYS_OUT: ClassVar[str] = (
        "name the folder of a downloaded one (clip=/path/to/clip-vit-base-patch32), "
        "or take the embedded one, which knows only letters and digits (clip=nano:clip)"
    )

    logit_scale: Annotated[float, Field(gt=0)] = 100.0

    def weight_files(self) -> list[Path]:
        return files_of(self.folder())

    def load(self, device: str | None = None) -> Scorer:
        """The model in memory, on the first GPU unless told otherwise."""
        folder = self.folder()
        sort = json.loads((folder / self.MARK).read_text()).get("model_type")
        if sort != "clip":  # transformers would load it all the same, and fill the gaps at random
            raise UserError(f"{folder} holds a {sort} model, not a {self.SORT}; {self.WAYS_OUT}")

        from synthaug.scorer import Scorer

        return Scorer(folder, self.logit_scale, device)
