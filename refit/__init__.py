"""One refit: move a model's weights from its training layout to its inference layout, verify, time."""

__version__ = "0.1.0"
