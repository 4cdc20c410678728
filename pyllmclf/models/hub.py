"""Resolves a model's name to its configuration, tokenizer and folder of files."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.json_text import parse_json
from ..data.tokenizers import Tokenizer, load_tokenizer
from ..errors import ModelError, ResourceError, UsageError
from ..paths import user_path
from ..suggestions import did_you_mean
from .adapters import ADAPTER_CONFIG, Adapter, read_adapter, without_prefix
from .architecture import Preset
from .architectures.registry import architecture_of, model_config, presets
from .config import ModelConfig
from .weights import WEIGHTS_FILE, WEIGHTS_INDEX, shard_names

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class ModelSource:
    """A resolved model.

    Attributes
    ----------
    name : str
        The user's argument.
    config : ModelConfig
    tokenizer : Tokenizer
    folder : Path or None
        Folder with the files; ``None`` where a preset needs none.
    hub_id, revision : str or None
        Repository and commit of a model from the hub.
    adapter : Adapter or None
        Set where the name is an adapter's folder; the other fields but ``name`` are those of its base model.
    """

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    folder: Path | None
    hub_id: str | None = None
    revision: str | None = None
    adapter: Adapter | None = None


def find_model(name: str | os.PathLike[str], weights: str) -> ModelSource:
    """Finds a model by folder, preset or hub id; the hub's cache comes before the network.

    Parameters
    ----------
    name : str or path
    weights : {"pretrained", "random"}
        ``"random"`` downloads no weights.

    Raises
    ------
    ModelError
        If the model does not exist, is not supported, or lacks a file.
    UsageError
        If an argument is of the wrong type, or the model has no weights of that kind.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise UsageError(f"model={name!r} must be a name, a folder or a hub id.")
    name = str(os.fspath(user_path(name)))
    if weights not in ("pretrained", "random"):
        raise UsageError(f"weights={weights!r} is unknown; it is 'pretrained' or 'random'.")
    if Path(name).is_dir():
        folder = Path(name)
        if (folder / ADAPTER_CONFIG).is_file():
            if weights == "random":
                raise UsageError(f"{name}: an adapter needs its base model's weights; use weights='pretrained'.")
            return _check_vocabulary(_from_adapter(folder))
        if not (folder / "config.json").is_file() and (folder / "last").is_dir():
            raise ModelError(f"{name}: this is the folder of a run; name one of its checkpoints, as {folder / 'last'}.")
        config = read_config(folder)
        return _check_vocabulary(ModelSource(name, config, _read_tokenizer(folder, config), folder))
    preset = presets().get(name)
    if preset is not None and preset.hub_id is None and weights == "pretrained":
        raise UsageError(f"{name} has no pretrained weights; use weights='random' (--weights random).")
    if preset is not None and weights == "random" and preset.tokenizer is not None:
        # No file of the hub is needed.
        return _check_vocabulary(ModelSource(name, model_config(preset.config, name), preset.tokenizer(), None))
    hub_id = preset.hub_id if preset is not None else name
    assert hub_id is not None
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ModelError(f"{name}: there is no such folder.")
    try:
        return _check_vocabulary(_from_hub(name, hub_id, weights, preset))
    except ModelError as error:
        hint = did_you_mean(name, presets()) if preset is None and "/" not in name else ""
        raise (ModelError(f"{str(error).removesuffix('.')}{hint}.") if hint else error) from error.__cause__


def _from_adapter(folder: Path) -> ModelSource:
    adapter = read_adapter(folder, read_json(folder / ADAPTER_CONFIG))
    has_tokenizer = (folder / "tokenizer.json").is_file()
    # The base is a folder in the adapter's, another folder, or a hub id.
    path = next((path for path in (folder / adapter.base, Path(adapter.base)) if path.is_dir()), None)
    if path is None:
        base = _from_hub(adapter.base, adapter.base, "pretrained", revision=adapter.revision)
        if has_tokenizer:
            base = replace(base, tokenizer=_read_tokenizer(folder, base.config))
    else:
        config = read_config(path)
        tokenizer = _read_tokenizer(folder if has_tokenizer else path, config)
        base = ModelSource(str(folder), config, tokenizer, path)
    return replace(base, name=str(folder), adapter=replace(adapter, lora=without_prefix(adapter.lora, base.config)))


def fetch_revision(hub_id: str, revision: str | None) -> Path:
    """Fetches configuration and weights of a hub repository.

    Parameters
    ----------
    hub_id : str
    revision : str or None
        A commit; the newest one by default.

    Returns
    -------
    Path
        The folder in the hub's cache.

    Raises
    ------
    ModelError
        If a file is neither cached nor can be fetched.
    """
    files = _HubFiles(hub_id, revision)
    config = files.get("config.json", required=True)
    assert config is not None
    files.get_weights()
    return config.parent


def class_names(source: ModelSource) -> list[str] | None:
    """Names of the classes of a model's head, in order; ``None`` if its configuration names none.

    Raises
    ------
    ModelError
        If an adapter has no head.
    """
    labels = source.config.raw.get("id2label")
    complete = isinstance(labels, dict) and all(isinstance(labels.get(str(i)), str) for i in range(len(labels)))
    names = [labels[str(i)] for i in range(len(labels))] if isinstance(labels, dict) and complete else None
    if source.adapter is None:
        return names
    # PEFT writes no names: those of the base apply if the adapter's head has as many outputs.
    count = source.adapter.n_classes(source.config)
    return names if names is not None and len(names) == count else [f"LABEL_{i}" for i in range(count)]


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a Hugging Face model folder.

    Raises
    ------
    ModelError
        If it is missing, damaged or not supported.
    """
    return model_config(read_json(folder / "config.json"), str(folder / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or no JSON object.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: there is no {path.name}; it is not a model folder.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object.")
    return content


def _from_hub(
    name: str, hub_id: str, weights: str, preset: Preset | None = None, revision: str | None = None
) -> ModelSource:
    files = _HubFiles(hub_id, revision)
    config_path = files.get("config.json", required=True)
    assert config_path is not None
    folder = config_path.parent
    revision = folder.name if folder.parent.name == "snapshots" else None
    files.revision = revision  # all other files come from the same commit
    config = read_config(folder)
    if weights == "pretrained":
        files.get_weights()
    tokenizer: Tokenizer
    if preset is not None and preset.tokenizer is not None:
        tokenizer = preset.tokenizer()
    else:
        for file in TOKENIZER_FILES:
            files.get(file)
        tokenizer = _read_tokenizer(folder, config)
    return ModelSource(name, config, tokenizer, folder, hub_id, revision)


def _read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    return load_tokenizer(folder, architecture_of(config).vocabulary)


class _HubFiles:
    """Files of a hub repository, from the hub's cache, or from the network unless ``HF_HUB_OFFLINE`` is set."""

    def __init__(self, hub_id: str, revision: str | None = None) -> None:
        from huggingface_hub import constants

        if constants.HF_HUB_CACHE.startswith("~"):  # it would be a folder named ~
            raise ResourceError(
                f"{hub_id}: there is no home folder for the hub's cache; set HF_HOME (or HOME) to a folder that can be "
                "written, or pass the path of a model folder."
            )
        self.hub_id, self.revision = hub_id, revision

    def get(self, filename: str, *, required: bool = False) -> Path | None:
        """Path of a file in the cache; ``None`` if the repository lacks it, and it is not required."""
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            cached = try_to_load_from_cache(self.hub_id, filename, revision=self.revision)
            if isinstance(cached, str):
                return Path(cached)
            known_absent = cached is not None
            if not required and (known_absent or constants.HF_HUB_OFFLINE):
                return None
            return Path(hf_hub_download(self.hub_id, filename, revision=self.revision))
        except HFValidationError as error:
            raise ModelError(f"{self.hub_id}: neither a folder, a preset nor a valid hub id.") from error
        except LocalEntryNotFoundError as error:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub can't be reached"
            raise ModelError(
                f"{self.hub_id}: {filename} is not in the local cache and {why}; "
                "pass the path of a model folder, or connect to the network once."
            ) from error
        except EntryNotFoundError as error:
            if required:
                raise ModelError(f"{self.hub_id}: the repository has no {filename}.") from error
            return None
        except Exception as error:  # the hub's client and its HTTP library have no common base
            raise ModelError(
                f"{self.hub_id}: {filename} can't be fetched from the hub ({type(error).__name__}: {error})."
            ) from error

    def get_weights(self) -> None:
        """Fetches the weights, in one file or several."""
        if self.get(WEIGHTS_FILE) is not None:
            return
        index = self.get(WEIGHTS_INDEX)
        if index is None:
            self.get(WEIGHTS_FILE, required=True)  # raises: the file is absent, or the hub out of reach
            return
        for shard in shard_names(index):
            self.get(shard, required=True)


def _check_vocabulary(source: ModelSource) -> ModelSource:
    """The source itself; raises :class:`ModelError` if its tokenizer has more tokens than its embedding."""
    if source.tokenizer.vocab_size > source.config.vocab_size:
        raise ModelError(
            f"{source.name}: the tokenizer has {source.tokenizer.vocab_size} tokens, "
            f"but the model's embedding only {source.config.vocab_size}."
        )
    return source
