"""Tensors x layouts -> the block copies of a refit, who sends each, and what no plan can beat."""
