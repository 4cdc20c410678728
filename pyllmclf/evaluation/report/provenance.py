"""Hashes and versions that the figures of an evaluation depend on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path

from ...data.atomic_folder import MANIFEST
from ...data.fetch import sha256
from ...data.readers import TextData
from ...version import __version__

PACKAGES = ("torch", "numpy", "scikit-learn", "tokenizers", "tiktoken")


def provenance(checkpoint: Path, data: TextData, device: str) -> dict[str, str]:
    """Hashes and versions that the figures depend on.

    Parameters
    ----------
    checkpoint : Path
    data : TextData
        The evaluated texts.
    device : str

    Returns
    -------
    dict of str to str
        Description to value, in the order of the report.
    """
    digest = hashlib.sha256(json.dumps([data.texts, list(map(str, data.labels or []))]).encode())
    entries = {
        "checkpoint": _printable(checkpoint),
        **_hashes(checkpoint),
        "data": _printable(data.origin),
        "data, SHA-256 of texts and labels": digest.hexdigest(),
        "device": device,
        "pyllmclf": __version__,
        "Python": platform.python_version(),
    }
    return entries | {package: metadata.version(package) for package in PACKAGES}


def _hashes(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of a folder's manifest, or of the weights in a folder that another library wrote."""
    if (checkpoint / MANIFEST).is_file():
        return {"checkpoint, SHA-256 of its manifest": sha256(checkpoint / MANIFEST)}
    return {f"{path.name}, SHA-256": sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))}


def _printable(name: str | os.PathLike[str]) -> str:
    """A path as UTF-8, with U+FFFD for bytes that are not."""
    return os.fsencode(name).decode("utf-8", "replace")
