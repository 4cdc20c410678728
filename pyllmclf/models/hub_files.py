"""Files of a repository on the Hugging Face hub: from the network, or from the hub's cache."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..data.fetch import sha256
from ..errors import ModelError, PyllmclfError, ResourceError
from .weight_files import WEIGHTS_FILE, WEIGHTS_INDEX, conversion, shard_names

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")


class OnlyPickles(ModelError):
    """A repository has its weights as pickle files alone.

    Attributes
    ----------
    pickled : str
        Name of such a file.
    """

    def __init__(self, message: str, pickled: str) -> None:
        super().__init__(message)
        self.pickled = pickled


class HubFiles:
    """Files of one revision of a repository.

    The first file asks the hub for the revision's commit, unless ``HF_HUB_OFFLINE`` is set or the revision is a commit;
    all files come from that commit, and those that are cached are not fetched. If the hub doesn't answer, or refuses
    access, the cached commit is used with a warning.

    Parameters
    ----------
    hub_id : str
    revision : str or None
        Branch, tag or commit; the default branch by default.

    Attributes
    ----------
    commit : str or None
        Set by the first file.
    """

    def __init__(self, hub_id: str, revision: str | None = None) -> None:
        self.hub_id, self.revision = hub_id, revision
        self.commit = revision if revision is not None and _COMMIT.fullmatch(revision) else None
        self.unreachable: str | None = None
        self._unknown: list[str] = []

    @property
    def name(self) -> str:
        """Repository and revision, for messages."""
        return self.hub_id if self.revision is None else f"{self.hub_id}@{self.revision}"

    def cached(self, filename: str) -> Path | None:
        """Path of a file in the cache; ``None`` if it is not there."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(self.hub_id, filename, revision=self.commit or self.revision)
        except HFValidationError as error:
            raise ModelError(f"{self.hub_id}: neither a folder, a preset nor a valid hub id.") from error
        return Path(path) if isinstance(path, str) else None

    def config(self) -> Path:
        """Path of ``config.json``; determines the commit.

        Raises
        ------
        ModelError
            If the file is neither cached nor can be fetched.
        """
        self._check_cache()
        cached = self.cached("config.json")
        known = self.commit is not None or is_offline()
        path = (cached or self.required("config.json")) if known else self._newest(cached)
        self.commit = path.parent.name if path.parent.parent.name == "snapshots" else None
        return path

    def _check_cache(self) -> None:
        from huggingface_hub import constants

        if constants.HF_HUB_CACHE.startswith("~"):  # it would be a folder named ~
            raise ResourceError(
                f"{self.hub_id}: there is no home folder for the hub's cache; set HF_HOME (or HOME) to a folder that "
                "can be written, or pass the path of a model folder."
            )

    def _newest(self, cached: Path | None) -> Path:
        """``config.json`` of the commit that the hub names; that of the cached one if the hub can't be asked."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        try:
            found = get_hf_file_metadata(hf_hub_url(self.hub_id, "config.json", revision=self.revision))
        except PyllmclfError:
            raise
        except Exception as error:  # the hub's client and its HTTP library have no common base
            problem = explained(error, "config.json")
            if cached is None or _is_answer(error):
                raise ModelError(f"{self.name}: {problem}.") from error
            self.unreachable = problem
            warnings.warn(
                f"{self.name}: {problem}; the cached commit {cached.parent.name[:12]} is used.",
                RuntimeWarning,
                stacklevel=6,
            )
            return cached
        if cached is not None and found.commit_hash == cached.parent.name:
            return cached
        # By its name, so that the cache records the name's new commit.
        return self._download("config.json", self.revision)

    def required(self, filename: str) -> Path:
        """Path of a file.

        Raises
        ------
        ModelError
            If the file is neither cached nor can be fetched.
        """
        path = self.get(filename)
        if path is None:
            raise ModelError(f"{self.name}: {self._absent(filename)}")
        return path

    def get(self, filename: str) -> Path | None:
        """Path of a file; ``None`` if the repository lacks it, or if it is not cached and the hub isn't asked.

        Raises
        ------
        ModelError
            If the hub refuses the file or doesn't answer.
        """
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if (path := self.cached(filename)) is not None:
            return path
        known_absent = try_to_load_from_cache(self.hub_id, filename, revision=self.commit or self.revision) is not None
        if known_absent:
            return None
        if is_offline() or self.unreachable is not None:
            self._unknown.append(filename)
            return None
        try:
            return self._download(filename, self.commit or self.revision)
        except ModelError as error:
            cause = error.__cause__
            if isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
                return None
            raise

    def warn_unknown(self, *filenames: str) -> None:
        """Warns of those files that are taken for absent although the cache doesn't say so, and the hub isn't asked."""
        unknown = [name for name in filenames if name in self._unknown]
        if unknown:
            why = "HF_HUB_OFFLINE is set" if is_offline() else "the hub can't be asked"
            warnings.warn(
                f"{self.name}: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not in the local cache and "
                f"{why}; read as if the repository had no such file: connect to the network once to be sure.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _download(self, filename: str, revision: str | None) -> Path:
        from huggingface_hub import hf_hub_download

        self._check_cache()
        try:
            return Path(hf_hub_download(self.hub_id, filename, revision=revision))
        except PyllmclfError:
            raise
        except Exception as error:  # the hub's client and its HTTP library have no common base
            raise ModelError(f"{self.name}: {explained(error, filename)}.") from error

    def _absent(self, filename: str) -> str:
        """Why a file is missing, and what to do about it."""
        if is_offline() or self.unreachable is not None:
            why = "HF_HUB_OFFLINE is set" if is_offline() else f"the hub can't be asked ({self.unreachable})"
            return (
                f"{filename} is not in the local cache and {why}; "
                "pass the path of a model folder, or connect to the network once."
            )
        return f"the repository has no {filename}."

    def tokenizer(self, older: Sequence[str]) -> None:
        """Fetches a tokenizer's files; ``older`` are those of a vocabulary that takes the place of tokenizer.json."""
        if self.get("tokenizer.json") is None:
            for filename in older:
                self.get(filename)
        self.get("tokenizer_config.json")

    def weights(self) -> None:
        """Fetches the weights, in one file or several, and compares their hashes.

        Raises
        ------
        OnlyPickles
            If the repository has pickle files alone.
        ModelError
            If a file is missing or damaged.
        """
        if (path := self.get(WEIGHTS_FILE)) is not None:
            check_blob(path)
            return
        if (index := self.get(WEIGHTS_INDEX)) is not None:
            for shard in shard_names(index):
                check_blob(self.required(shard))
            return
        pickled = next((name for name in PICKLED if self._has(name)), None)
        if pickled is not None:
            config = self.cached("config.json")
            raise OnlyPickles(
                f"{self.name}: the repository has no {WEIGHTS_FILE} ({pickled} is a pickle file, which is never "
                f"opened; {conversion(self.hub_id, config)}, or name a revision that has safetensors).",
                pickled,
            )
        self.required(WEIGHTS_FILE)

    def _has(self, filename: str) -> bool:
        """Whether the repository has a file, which is not fetched."""
        return self.cached(filename) is not None or self.hash_of(filename) is not None

    def hash_of(self, filename: str) -> str | None:
        """The hub's hash of a file's content, which is not fetched; ``None`` if the hub doesn't say that it has one."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        if is_offline() or self.unreachable is not None:
            return None
        try:
            found = get_hf_file_metadata(hf_hub_url(self.hub_id, filename, revision=self.commit or self.revision))
        except PyllmclfError:
            raise
        except Exception:  # the hub's client and its HTTP library have no common base
            return None
        return found.etag


def check_blob(path: Path) -> None:
    """Compares a cached file with the SHA-256 that the cache names its content by, if it does.

    Raises
    ------
    ModelError
        If the content differs or can't be read.
    """
    blob = Path(os.path.realpath(path))
    if blob.parent.name != "blobs" or not _SHA256.fullmatch(blob.name):
        return
    try:
        intact = sha256(blob) == blob.name
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error}).") from error
    if not intact:
        raise ModelError(
            f"{blob}: damaged; its content does not have the SHA-256 that its name says. Delete this file, and "
            f"{path.name} is fetched again."
        )


def explained(error: Exception, filename: str) -> str:
    """Names the cause of an error of the hub's client, and what to do about it."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        return "neither a folder, a preset nor a valid hub id"
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__
        return explained(cause, filename) if isinstance(cause, Exception) else f"{filename} is not cached"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision; check its name"
    if isinstance(error, EntryNotFoundError):
        return f"the repository has no {filename}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"access to the repository is gated; ask for it on its page on the hub, then {log_in}"
    if isinstance(error, RepositoryNotFoundError) and status != 401:
        return f"the hub has no such repository, or it is private; check its name, or {log_in}"
    causes = {
        401: f"the hub refuses access without a valid login (401): there is no such repository, or it is private or "
        f"gated; check its name, or {log_in}",
        403: f"the hub forbids access (403): the repository is private or gated; {log_in}, with access to it",
        404: f"the hub has no such repository, or no {filename} in it (404); check its name and revision",
        429: "the hub limits the rate of requests (429); wait some minutes, or log in, which raises the limit",
    }
    if status in causes:
        return causes[status]
    if isinstance(status, int) and status >= 500:
        return f"the hub has a fault of its own ({status}); try again later"
    kind = type(error).__name__
    if "timeout" in kind.lower() or isinstance(error, TimeoutError):
        return f"the hub does not answer in time ({kind}); check the connection, or try again later"
    return f"the hub can't be reached ({kind}: {first_line(error)}); check the connection, proxy and HF_ENDPOINT" + (
        _without_network()
    )


def _without_network() -> str:
    """The presets whose weights are installed as a package, as the end of a sentence."""
    from .architectures.registry import presets

    names = [name for name, preset in presets().items() if preset.package is not None and preset.package.find()]
    return f"; model {names[0]!r} needs no network" if names else ""


def first_line(error: BaseException) -> str:
    """First line of an error's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _is_answer(error: Exception) -> bool:
    """Whether an error is the hub's answer about a revision or file that it does not have."""
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RevisionNotFoundError

    return isinstance(error, (RevisionNotFoundError, EntryNotFoundError, HFValidationError))


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
