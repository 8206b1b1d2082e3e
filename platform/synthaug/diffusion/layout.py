"""What the files of a trained denoiser are called, and the words in them."""

from typing import Literal

Target = Literal["edm", "velocity", "epsilon", "x0"]  # what its net predicts
By = Literal["embedding", "channels", "scale and shift"]  # where it hears what was done to a noisy image

FOLDER = "denoiser"  # in its stage's folder
ABOUT = "denoiser.json"  # of a net that is told things: which, and what it predicts
TOLD = "told.safetensors"  # the weights that it has beside those of diffusers' own net
