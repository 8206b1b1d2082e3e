"""The embedded models: where they lie, and in the files beside this one how each was trained."""

from synthaug.weights import embedded as path  # noqa: F401
from synthaug.weights import embedded_names as known  # noqa: F401
