"""Where the science meets Ray, MLflow and the disk."""
