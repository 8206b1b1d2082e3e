"""Images with labels: what there is, where it lies, how it is read."""
