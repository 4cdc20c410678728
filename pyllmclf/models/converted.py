"""Safetensors for repositories of the hub that hold pickles alone: the pull request of the hub's conversion bot."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from ..errors import ModelError, PyllmclfError
from .hub_files import HubFiles, OnlyPickles, is_offline
from .weight_files import WEIGHTS_FILE, WEIGHTS_INDEX

BOT = "SFconvertbot"
_PULL_REQUEST = re.compile("[0-9]+")


def converted(files: HubFiles, problem: ModelError) -> HubFiles:
    """The files of the pull request that converts the repository's weights.

    All files are then read from its commit: it has the repository's configuration and pickle, byte for byte, beside the
    converted weights.

    Parameters
    ----------
    files : HubFiles
        Of a repository without safetensors.
    problem : ModelError
        Why its weights can't be read; raised where there is no such pull request.

    Raises
    ------
    ModelError
        If there is no such pull request, the hub can't be asked, it refuses a file, or it doesn't answer.
    """
    if files.revision is not None:  # other weights than those of the default branch are asked for
        raise problem
    if is_offline() or files.unreachable is not None:
        for number in [] if _holds_weights(files) else _cached(files):
            if _holds_weights(HubFiles(files.hub_id, f"refs/pr/{number}")):
                name = f"refs/pr/{number}"
                hint = f"the cache holds the weights of {name}, which revision={name!r} names"
                raise ModelError(f"{str(problem).removesuffix('.')}; {hint}.") from problem
        raise problem
    for number in _of_the_bot(files) if isinstance(problem, OnlyPickles) else []:
        found = HubFiles(files.hub_id, f"refs/pr/{number}")
        if isinstance(problem, OnlyPickles) and _converts(found, files, problem.pickled):
            found.config()
            warnings.warn(
                f"{files.name}: the repository has pickle files alone, which are never opened; the weights are those "
                f"of pull request {number}, in which the hub's {BOT} has converted them (commit "
                f"{str(found.commit)[:12]}).",
                RuntimeWarning,
                stacklevel=5,
            )
            return found
    raise problem


def _of_the_bot(files: HubFiles) -> list[int]:
    """Numbers of the bot's pull requests, the newest first; none if the hub doesn't name them."""
    from huggingface_hub import HfApi, constants

    try:
        requests = HfApi(endpoint=constants.ENDPOINT).get_repo_discussions(
            files.hub_id, author=BOT, discussion_type="pull_request"
        )
        numbers = [each.num for each in requests if each.author == BOT and each.is_pull_request]
    except PyllmclfError:
        raise
    except Exception:  # the error of the missing weights says more
        return []
    return sorted(numbers, reverse=True)


def _cached(files: HubFiles) -> list[int]:
    """Numbers of the pull requests that the hub's cache holds, the newest first."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{files.hub_id.replace('/', '--')}" / "refs" / "refs" / "pr"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if _PULL_REQUEST.fullmatch(name)), reverse=True)


def _holds_weights(found: HubFiles) -> bool:
    return any(found.cached(name) is not None for name in (WEIGHTS_FILE, WEIGHTS_INDEX))


def _converts(found: HubFiles, files: HubFiles, pickled: str) -> bool:
    """Whether a pull request has safetensors beside the same configuration and pickle."""
    if not any(found.hash_of(name) for name in (WEIGHTS_FILE, WEIGHTS_INDEX)):
        return False
    return all(found.hash_of(name) == files.hash_of(name) for name in ("config.json", pickled))
