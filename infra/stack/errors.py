"""What can go wrong with the local stack, one class a cause."""

from __future__ import annotations

from flows.errors import KappaError


class JarsUnavailable(KappaError):
    """A jar of the lock could not be fetched, or the cache folder could not be written."""


class JarAltered(KappaError):
    """A fetched jar is not the one of the lock: nothing is started with it."""


class ServerFailed(KappaError):
    """A server did not start, or did not answer in time."""


class DataDamaged(KappaError):
    """A server's data folder is neither whole nor plainly unfinished: it is left alone."""


class FolderUnsuitable(KappaError):
    """A server cannot keep its data in a folder of this name."""


class StackBusy(KappaError):
    """Another up, down or reset holds the stack for too long."""
