"""What a trained classifier, or a set of generated images, is worth in numbers."""
