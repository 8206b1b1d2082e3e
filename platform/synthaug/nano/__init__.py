"""The embedded models: where they lie, and in the files beside this one how each was trained."""

from synthaug.weights import embedded as path
from synthaug.weights import embedded_names as known

__all__ = ["known", "path"]
