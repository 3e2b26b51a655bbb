"""One refit: move a model's weights from training layout to inference layout, verify, time."""

__version__ = "0.1.0"  # the only place; pyproject.toml reads it from here

from refit import early

early.quiet()
