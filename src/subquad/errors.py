"""The two ways a command can end badly.

A wrong input is a plain ``ValueError`` in words (exit status 2). A run that was requested correctly but failed, because of a damaged
checkpoint, a full disk or a loss that is not a number, is a ``RunError`` (exit status 1). It is not a ``ValueError``, so that what
handles wrong inputs lets failures pass. Both say what was expected, what was found and what to do.
"""


class RunError(Exception):
    """The request was right and the run failed; the message says what is left and how to continue."""
