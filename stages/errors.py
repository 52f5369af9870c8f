"""The ways a dub can fail, as the rest of the house tells them apart.

    DubError
     |- BadInput      the row or its media cannot be dubbed: dead letter at once, retrying is useless
     |- ConfigError   the settings cannot work together: refused before anything starts
     |- Transient     the world hiccuped (storage, network): worth another try

Everything else that is raised is a bug of ours and stays loud.
A message says what came, what was wanted, where, and what to do.
"""


class DubError(Exception):
    """An error whose message is meant for the person who launched the run."""


class BadInput(DubError):
    """The job's own material is at fault; no retry can mend it. In a gang every rank raises it alike, before any collective."""


class ConfigError(DubError):
    """The configuration asks for something impossible, or for two things that exclude each other."""


class Transient(DubError):
    """The surroundings failed for a moment; the same call may succeed later."""
