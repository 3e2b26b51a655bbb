"""Degrees -> rank grids; a model's logical tensors and how each side cuts them. Pure, no torch."""
