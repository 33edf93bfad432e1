"""The one exception a command turns into a message instead of a traceback."""


class NextbuyError(Exception):
    """Something the user can mend: the message says what, where, and what to do."""
