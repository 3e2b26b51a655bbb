"""The one error that is shown to a user as it is."""


class UserError(ValueError):
    """What a user asked for cannot be done. Its text is shown as it is, without a traceback."""
