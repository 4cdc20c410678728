"""A run that replaces an earlier one: it is written beside the earlier folder, and takes its place at once."""

from __future__ import annotations

import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from ..data.atomic_folder import beside_of, replace_folder
from ..data.folder_lock import FolderLock
from ..errors import ResourceError

LOGS = "logs"


class Replacement:
    """The folder of a new run, beside that of the run or classifier that it replaces.

    The earlier folder stays as it is, and can be opened, until :meth:`take_place`. Logs are the exception: they are
    written into the earlier folder from the first step on, and move with the new run; the earlier logs are set aside.

    Parameters
    ----------
    path : Path
        The earlier folder.
    lock : FolderLock
        Its lock, which is held.

    Attributes
    ----------
    folder : Path
        The new folder.

    Raises
    ------
    ResourceError
        If it can't be made.
    """

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self._path, self._old_lock = path, lock
        target = path.resolve()
        self.folder = target.with_name(f".{target.name}.{uuid.uuid4().hex}.run")
        self._earlier_logs = beside_of(path / LOGS, "old")
        self._lock = FolderLock(self.folder)
        try:
            self._remove_unfinished(target)
            self.folder.mkdir()
            self._lock.acquire()
            if (path / LOGS).is_dir():
                (path / LOGS).rename(self._earlier_logs)
        except OSError as error:
            self.abandon()
            raise ResourceError(f"output_dir {path} can't be replaced ({error}).") from error

    @classmethod
    def undo(cls, path: Path) -> None:
        """Undoes replacements that were killed before they took place; the folder's lock is held."""
        earlier = sorted(path.glob(f".{LOGS}.{'?' * 32}.old"))
        if earlier:
            shutil.rmtree(path / LOGS, ignore_errors=True)  # of the killed run
            with suppress(OSError):
                earlier[0].rename(path / LOGS)
        with suppress(OSError):  # the folder above may be another user's
            cls._remove_unfinished(path.resolve())

    @staticmethod
    def _remove_unfinished(target: Path) -> None:
        """Removes the new folders of killed runs; none is at work, since the earlier folder's lock is held."""
        name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.run")
        for path in target.parent.iterdir():
            if name.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def take_place(self) -> FolderLock:
        """Replaces the earlier folder by the new one, at once where the system can do so; returns the new one's lock.

        Raises
        ------
        ResourceError
            If the folder can't be replaced.
        """
        target = self._path.resolve()
        try:
            if (self._path / LOGS).is_dir():
                (self._path / LOGS).rename(self.folder / LOGS)
            replace_folder(self.folder, target)
        except OSError as error:
            raise ResourceError(f"output_dir {self._path} can't be replaced ({error}).") from error
        self._lock.moved(self._path)
        self._old_lock.release()
        return self._lock

    def abandon(self) -> None:
        """Removes the new folder, and gives the earlier logs their place back."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            if self._earlier_logs.is_dir():
                shutil.rmtree(self._path / LOGS, ignore_errors=True)
                self._earlier_logs.rename(self._path / LOGS)
