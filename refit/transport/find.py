"""The transport that a user names, one of ours or a class of their own."""

from __future__ import annotations

import importlib
import inspect

from refit.rules import methods
from refit.transport import Transport, Unsupported


def transport(method: str) -> type[Transport]:
    """The class of a method.

    Raises:
        Unsupported: what a user named is no transport, or cannot be imported.
    """
    module, name = methods.locate(method)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a user's module raises
        if method in methods.METHODS:
            raise
        first = next(iter(str(error).splitlines()), "")
        raise Unsupported(
            f"refit.method={method} cannot be imported: {type(error).__name__}: {first}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Transport)):
        raise Unsupported(
            f"refit.method={method} is no transport; name a class that extends"
            " refit.transport.Transport"
        )
    if inspect.isabstract(found):
        lacks = ", ".join(sorted(found.__abstractmethods__))
        raise Unsupported(f"refit.method={method} lacks {lacks}; see refit.transport.Transport")
    return found


def refusal(method: str) -> str | None:
    """Why a method is no transport, or None."""
    try:
        transport(method)
    except Unsupported as error:
        return str(error)
    return None
