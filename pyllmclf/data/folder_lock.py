"""The lock of a folder: a file that one process holds, and removes when it is done."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class FolderLock:
    """Lock of a folder, without waiting; the system releases it when the process ends, however it ends.

    filelock leaves its file behind, since a process that has opened the file before it is removed could lock a file
    without a name. Here whoever gets a lock makes sure that the name still is the locked file's, and tries again
    otherwise; and the file is removed while it is locked.

    Parameters
    ----------
    folder : Path
        The lock is the file ``.lock`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._descriptor: int | None = None
        self._without_flock: Any = None

    def acquire(self) -> None:
        """Locks the folder.

        Raises
        ------
        BlockingIOError
            If another process, or another lock of this one, holds it.
        OSError
            If the file can't be made.
        """
        while fcntl is not None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._has_name(descriptor):
                    self._descriptor = descriptor
                    return
            except OSError as error:
                os.close(descriptor)
                if error.errno in _HELD:
                    raise BlockingIOError(error.errno, os.strerror(error.errno), str(self.path)) from error
                if error.errno not in _UNSUPPORTED:
                    raise
                break
            os.close(descriptor)
        from filelock import FileLock, Timeout

        self._without_flock = FileLock(self.path, timeout=0)
        try:
            self._without_flock.acquire()
        except Timeout as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self.path)) from error

    def moved(self, folder: Path) -> None:
        """Notes that the folder has another name now."""
        self.path = folder / LOCK

    def release(self) -> None:
        """Removes the file, and releases the lock; without effect if it is not held."""
        if self._without_flock is not None:
            self._without_flock.release()
            self._without_flock = None
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                if self._has_name(descriptor):
                    self.path.unlink()
            except OSError:  # a folder that is read-only since
                pass
            finally:
                os.close(descriptor)

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the interpreter
            self.release()

    def _has_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


def is_locked(folder: Path) -> bool:
    """Whether a run is at work in a folder."""
    lock = FolderLock(folder)
    if not lock.path.exists():
        return False
    try:
        lock.acquire()
    except BlockingIOError:
        return True
    except OSError:
        return False
    lock.release()
    return False
