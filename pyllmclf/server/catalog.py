"""The classifiers of a server by name, and how newer checkpoints replace them."""

from __future__ import annotations

import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..classifier.classifier import Classifier
from ..classifier.replaceable import HELD_OUT
from ..errors import UsageError
from .shared_stages import ClassifierGroup, group_key


@dataclass(frozen=True)
class Served:
    """One classifier of a server.

    Attributes
    ----------
    name : str
    classifier : Classifier
    group : ClassifierGroup
        Classifiers that share its batches.
    member : int
        Its index in the group.
    loaded : int
        Seconds since 1970 at which it was opened.
    """

    name: str
    classifier: Classifier
    group: ClassifierGroup
    member: int
    loaded: int = field(default_factory=lambda: int(time.time()))


class Catalog:
    """Classifiers by name; it doesn't change, so that requests finish on the one they began with.

    Parameters
    ----------
    classifiers : mapping of str to Classifier
        The first one answers requests that name none.
    before : Catalog, optional
        Its groups are kept where their classifiers are the same.
    share_memory : bool
        Whether equal parameters of several classifiers become one tensor.
    """

    def __init__(
        self, classifiers: Mapping[str, Classifier], before: Catalog | None = None, *, share_memory: bool = False
    ) -> None:
        if not classifiers:
            raise UsageError("there is no classifier to serve; name the folder of one.")
        keyed: dict[object, list[str]] = {}
        for name, classifier in classifiers.items():
            keyed.setdefault(group_key(classifier), []).append(name)
        old = {served.group.classifiers: served.group for served in before.served.values()} if before else {}
        found: dict[str, Served] = {}
        for names in keyed.values():
            members = tuple(classifiers[name] for name in names)
            if (group := old.get(members)) is None:
                group = ClassifierGroup(members)
                if share_memory:
                    used = {id(served.classifier) for served in before.served.values()} if before else set()
                    group.share_memory([member for member in members if id(member) not in used])
            for member, name in enumerate(names):
                same = before.served.get(name) if before else None
                if same is not None and same.group is group and same.member == member:
                    found[name] = same
                else:
                    found[name] = Served(name, members[member], group, member)
        self.served: dict[str, Served] = {name: found[name] for name in classifiers}

    @property
    def groups(self) -> list[ClassifierGroup]:
        """The groups of the classifiers, each once."""
        return list({id(served.group): served.group for served in self.served.values()}.values())

    @property
    def default(self) -> Served:
        """The classifier of requests that name none."""
        return next(iter(self.served.values()))


def mark_of(path: Path) -> object:
    """A value that changes when a folder has another newest checkpoint, or ``last`` or ``best`` moves.

    Parameters
    ----------
    path : Path
        As for :func:`pyllmclf.load`.
    """
    marks = []
    for folder in (
        path,
        path / "last",
        *sorted(path.glob("checkpoint-*")),
        *sorted(path.glob(f"{HELD_OUT}/checkpoint-*")),
    ):
        for file in (*folder.glob("*"), *folder.glob("base/*")):
            try:
                state = file.stat()
            except OSError:  # it is gone
                continue
            if not stat.S_ISDIR(state.st_mode):
                name = f"{folder.resolve()}/{file.relative_to(folder)}"
                marks.append((name, state.st_ino, state.st_mtime_ns, state.st_size))
    return tuple(sorted(marks))
