"""Measurements of refit-sweep itself, as ratios taken in one run."""
