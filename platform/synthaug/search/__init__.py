"""Searching: the values that fields may take, how points of them are chosen, and which of them get more seeds."""
