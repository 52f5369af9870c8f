"""The errors of a dub, by what has to happen next.

    DubError
     |- BadInput      the row or its media cannot be dubbed: a dead letter at once, no retry helps
     |- ConfigError   the settings cannot work together: refused before anything starts
     '- Transient     storage or network failed for a moment: worth a retry
         '- Damaged   a stored file is gone or altered: worth a retry, which may make it again

Every other exception is a bug of ours and is not caught.
A message says what came, what was wanted, where, and what to do.
"""


class DubError(Exception):
    """An error whose message is meant for the person who launched the run."""


class BadInput(DubError):
    """The job's own material is at fault; no retry helps. In a gang every rank raises it alike, outside any collective."""


class ConfigError(DubError):
    """The configuration asks for something impossible, or for two things that exclude each other."""


class Transient(DubError):
    """The storage or network failed for a moment; the same call may succeed later."""


class Damaged(Transient):
    """A stored file does not exist any more, or does not hold the bytes that were stored. Waiting does not help, making it again does."""
