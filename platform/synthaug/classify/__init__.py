"""Training image classifiers on real and synthetic images: recipes, mixing, augmentation, models, the loop."""
