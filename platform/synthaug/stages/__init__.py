"""What an experiment is made of: each stage is said in one file, and `line` says how they hang together."""
