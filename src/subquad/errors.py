"""The two ways a command can end badly.

A wrong input is a plain ``ValueError`` in words (exit status 2). A run that was asked for correctly but failed, such as a damaged
checkpoint, a full disk or a loss that is no number, is a ``RunError`` (exit status 1). Both say what was expected, what was found and
what to do.
"""


class RunError(ValueError):
    """The request was right and the run failed; the message says what is left and how to go on."""
