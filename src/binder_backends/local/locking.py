"""A lock file that several processes of this machine respect.

The lock belongs to the open file, and whoever inherited that holds it too: it is free when the last
of them has ended, whatever the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Lock:
    """A held lock; close it, or let a child process inherit `fd` and close it.

    Args:
        fd: The open file.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, file: Path) -> Self | None:
        """Return the lock, None if somebody holds it.

        Raises:
            OSError: The file cannot be made or opened.
        """
        while True:
            fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it may have removed the file: then this is a lock of nothing.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), file.stat()):
                        return cls(fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self.fd)
