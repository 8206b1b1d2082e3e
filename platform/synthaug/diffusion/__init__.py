"""Diffusion as functions of a denoiser, and text-to-image pipelines; knows no data set."""
