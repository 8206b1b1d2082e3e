"""What the files of a trained denoiser are called."""

FOLDER = "denoiser"  # in its stage's folder
ABOUT = "denoiser.json"  # of a net that is told things: which, and what it predicts
TOLD = "told.safetensors"  # the weights that it has beside those of diffusers' own net
