"""The checkpoint: a folder that Hugging Face tools open, plus the files that only pyllmclf reads.

``config.json``, ``model.safetensors`` and tokenizer files, or for LoRA ``adapter_config.json``,
``adapter_model.safetensors`` and, where the base is no revision on the hub, ``base/``; ``pyllmclf.json``,
``training_state/`` and the manifest beside them. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from torch import Tensor

from ..data.atomic_folder import text_writer, verify_folder, write_folder
from ..data.json_text import parse_json
from ..data.labels import LabelEncoder, MultiLabelEncoder, checked_classes
from ..data.packing import RowLayout
from ..data.tokenizers import Tokenizer, restore_tokenizer, special_count, with_prompt
from ..errors import ModelError, UsageError
from ..lora_config import LoRAConfig
from ..models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, BASE_FOLDER, load_adapter, read_tensors
from ..models.config import ModelConfig
from ..models.hub import fetch_revision, follow_architecture, pair_tokenizer, read_config, read_json
from ..models.sequence_classifier import HeadSpec, SequenceClassifier
from ..models.weight_files import WEIGHTS_FILE, WEIGHTS_INDEX, check_size
from ..models.weights import backbone_state, load_weights
from .decisions import Decisions
from .held_out import HeldOut, TrainingRows
from .huggingface import model_files, parameter_bytes, tensor_writer
from .replaceable import HELD_OUT
from .schema import (
    FORMAT_VERSION,
    WITH_DECISIONS,
    WITH_PAIRS,
    WITH_PROMPT,
    WITHOUT_POOLER,
    BaseSpec,
    CheckpointSpec,
    TokenizerSpec,
    read_spec,
)
from .state import ClassifierState, Int8Layers

SPEC_FILE = "pyllmclf.json"
# Factors of the rows of layers in int8.
INT8_FILE = "int8.safetensors"
# Scores of held-out texts, and statistics of the training texts' rows.
SCORES_FILE, ROWS_FILE = "held_out.safetensors", "training_rows.safetensors"
STATE_FILE = "training_state/state.json"
OPTIMIZER_FILE = "training_state/optimizer.safetensors"
# A folder with one of these files is damaged unless its manifest lists the file.
COVERED = (
    SPEC_FILE,
    "config.json",
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    "tokenizer.json",
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    INT8_FILE,
    SCORES_FILE,
    ROWS_FILE,
    "base/config.json",
    f"base/{WEIGHTS_FILE}",
    f"base/{WEIGHTS_INDEX}",
    STATE_FILE,
    OPTIMIZER_FILE,
)


def save_checkpoint(
    folder: Path,
    state: ClassifierState,
    training_state: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
    *,
    keep_others: bool = False,
    overwrite: bool = False,
    place: Path | None = None,
    has_place: bool = True,
) -> None:
    """Writes a checkpoint, which is complete or absent.

    Parameters
    ----------
    folder : Path
    state : ClassifierState
    training_state : mapping, optional
        Progress of the training run, as JSON can hold it.
    optimizer : mapping of str to tensor, optional
        State of the optimizer.
    keep_others, overwrite : bool
        As for :func:`pyllmclf.data.atomic_folder.write_folder`.
    place : Path, optional
        Where the folder will be, if it is written under another name first.
    has_place : bool
        Whether the folder stays anywhere, so that its files may name the path.

    Raises
    ------
    UsageError
        If the folder holds files that are not a checkpoint's, and ``keep_others`` is false.
    ResourceError
        If the folder can't be written.
    """
    files = dict(model_files(state, (place or folder) if has_place else None))
    if state.lora is not None:
        # LoRA does not change the base: one hash serves all checkpoints of a run.
        state.base_sha256 = state.base_sha256 or content_hash(backbone_state(state.model))
    files[SPEC_FILE] = text_writer(json.dumps(_spec(state).to_json(), indent=2))
    if state.int8 is not None and state.int8.factors:
        files[INT8_FILE] = tensor_writer(state.int8.factors)
    files[STATE_FILE] = text_writer(json.dumps(dict(training_state or {}), indent=2))
    size = parameter_bytes(state)
    for name, part in ((SCORES_FILE, state.held_out), (ROWS_FILE, state.training_rows)):
        if part is not None:
            tensors = part.tensors()
            files[name] = tensor_writer(tensors)
            size += sum(tensor.nbytes for tensor in tensors.values())
    if optimizer:
        files[OPTIMIZER_FILE] = tensor_writer(optimizer)
        size += sum(tensor.nbytes for tensor in optimizer.values())
    write_folder(folder, files, size, keep_others=keep_others, overwrite=overwrite)


def load_checkpoint(path: Path) -> ClassifierState:
    """Reads a checkpoint, or the newest one in the folder of a run.

    Raises
    ------
    ModelError
        If there is no checkpoint, or it is damaged or of another format version.
    """
    while True:
        folder = find_checkpoint(path)
        try:
            return _read_checkpoint(folder)
        except ModelError:
            if folder.exists():
                raise
            # A training run has deleted it since, and has written a newer one.


def _read_checkpoint(folder: Path) -> ClassifierState:
    try:
        return _read_state(folder, read_spec(read_json(folder / SPEC_FILE), folder / SPEC_FILE))
    except UsageError as error:
        raise ModelError(f"{folder / SPEC_FILE}: {error}") from error


def find_checkpoint(path: Path) -> Path:
    """The newest complete checkpoint of a path; the hash of every file is checked.

    Warns about newer checkpoints that are damaged, and ignores those that a training run deletes meanwhile.

    Parameters
    ----------
    path : Path
        A checkpoint, a link to one, or the folder of a run with ``checkpoint-STEP`` folders.

    Returns
    -------
    Path
        The checkpoint's folder, with a link resolved.

    Raises
    ------
    ModelError
        If there is no complete checkpoint, or ``path`` is a damaged one.
    """
    while True:
        is_checkpoint = (path / SPEC_FILE).is_file()
        candidates = [path.resolve() if path.is_symlink() else path] if is_checkpoint else _newest_first(path)
        for candidate in candidates:
            try:
                verify_folder(candidate, COVERED)
            except ModelError as error:
                if not candidate.exists():
                    break
                if is_checkpoint:
                    raise
                warnings.warn(f"{error} Looking for an older checkpoint.", stacklevel=2)
                continue
            return candidate
        else:
            raise ModelError(f"{path}: there is no complete pyllmclf checkpoint; name the folder that finetune wrote.")


def is_run_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint that a training run may resume from."""
    try:
        return bool(read_json(folder / STATE_FILE))
    except ModelError:
        return False


def training_history(folder: Path) -> list[dict[str, Any]]:
    """The record of each epoch in a checkpoint; empty if :meth:`pyllmclf.Classifier.save` wrote it.

    Raises
    ------
    ModelError
        If the training state can't be read.
    """
    history = read_json(folder / STATE_FILE).get("history")
    return [record for record in history if isinstance(record, dict)] if isinstance(history, list) else []


def _newest_first(path: Path) -> list[Path]:
    """The ``checkpoint-STEP`` folders of a run, newest first; warns about damaged ones.

    Those of a training without the held-out texts come after all of the training that follows it.
    """
    return _by_step(path) + _by_step(path / HELD_OUT)


def _by_step(path: Path) -> list[Path]:
    by_step = []
    for candidate in path.glob("checkpoint-*"):
        try:
            step = int(parse_json((candidate / STATE_FILE).read_text(encoding="utf-8"))["step"])
            by_step.append((step, candidate))
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            if candidate.exists():
                warnings.warn(f"{candidate}: damaged ({error!r}). Looking for an older checkpoint.", stacklevel=4)
    return [candidate for _, candidate in sorted(by_step, reverse=True)]


def _read_state(folder: Path, spec: CheckpointSpec) -> ClassifierState:
    lora = LoRAConfig.coerce(spec.lora) if spec.lora is not None else None
    base_folder = folder
    if lora is not None:
        base_folder = folder / BASE_FOLDER
        if not base_folder.is_dir():
            if spec.base.hub_id is None:
                raise ModelError(f"{folder}: lacks its base model, the folder {BASE_FOLDER}.")
            base_folder = fetch_revision(spec.base.hub_id, spec.base.revision)
    config = read_config(base_folder)
    classes, separator = checked_classes(spec.classes), spec.label_separator
    encoder = LabelEncoder(classes) if separator is None else MultiLabelEncoder(classes, separator)
    head = HeadSpec.resolve(config, spec.pooling, spec.causal, spec.head_bias, pooler=spec.pooler)
    layout = RowLayout(spec.max_length, spec.pad_to, spec.long_texts, spec.pair_truncation)
    layout.check(config.n_positions)
    check_size(config, base_folder)
    model = SequenceClassifier(config, len(encoder.classes), head)
    load_weights(model, base_folder, head=lora is None)
    if lora is not None:
        if content_hash(backbone_state(model)) != spec.base.sha256:
            raise ModelError(f"{base_folder}: the base model is not the one that the adapter was trained on.")
        load_adapter(model, lora, read_tensors(folder / ADAPTER_FILE), folder / ADAPTER_FILE)
    model.requires_grad_(False)
    return ClassifierState(
        model=model,
        tokenizer=_read_tokenizer(folder, spec, config),
        encoder=encoder,
        layout=layout,
        lora=lora,
        hub_id=spec.base.hub_id,
        revision=spec.base.revision,
        settings=spec.settings,
        base_sha256=spec.base.sha256,
        temperature=spec.temperature,
        metrics=spec.metrics,
        int8=_int8_layers(spec.int8, folder),
        held_out=read_held_out(folder, spec),
        training_rows=read_training_rows(folder, spec, config.width),
        decisions=_decisions(folder, spec),
    )


def read_held_out(folder: Path, spec: CheckpointSpec) -> HeldOut | None:
    """The scores of held-out texts in a checkpoint, if it has any.

    Raises
    ------
    ModelError
        If their file is missing, damaged or doesn't fit the classes.
    """
    if spec.held_out is None:
        return None
    several = spec.label_separator is not None
    return HeldOut.read(folder / SCORES_FILE, spec.held_out, len(spec.classes), several=several)


def read_training_rows(folder: Path, spec: CheckpointSpec, width: int) -> TrainingRows | None:
    """The statistics of the training texts' rows in a checkpoint, if it has any.

    Raises
    ------
    ModelError
        If their file is missing, damaged or doesn't fit the model.
    """
    if spec.training_rows is None:
        return None
    return TrainingRows.read(folder / ROWS_FILE, spec.training_rows, width)


def _decisions(folder: Path, spec: CheckpointSpec) -> Decisions:
    try:
        found = Decisions.from_record(spec.decisions, len(spec.classes), several=spec.label_separator is not None)
    except ValueError as error:
        raise ModelError(f"{folder / SPEC_FILE}: decisions: {error}.") from error
    if found.unlike is not None and spec.training_rows is None:
        raise ModelError(f"{folder / SPEC_FILE}: decisions: unlike needs training_rows, which are missing.")
    return found


def _read_tokenizer(folder: Path, spec: CheckpointSpec, config: ModelConfig) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: can't be read ({error}).") from error
    tokenizer = restore_tokenizer(
        spec.tokenizer.kind,
        content,
        {"pad_token": spec.tokenizer.pad_token},
        str(path),
        splits_special_tokens=spec.tokenizer.split_special_tokens,
    )
    follow_architecture(tokenizer, config)
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelError(f"{folder}: the tokenizer has more tokens than the model's embedding.")
    file = folder / SPEC_FILE
    if spec.tokenizer.between is not None:
        tokenizer = pair_tokenizer(tokenizer, config)
        assert tokenizer.pairs is not None
        if list(tokenizer.pairs.between) != list(spec.tokenizer.between):
            raise ModelError(
                f"{file}: tokenizer.between is {shortened(spec.tokenizer.between)}, and the template of {path} has "
                f"{list(tokenizer.pairs.between)} between the texts of a pair."
            )
    return with_saved_prompt(
        tokenizer, spec.tokenizer.prompt, str(file), spec.max_length, f"{file}: max_length={spec.max_length}"
    )


def with_saved_prompt(tokenizer: Tokenizer, prompt: str, origin: str, max_length: int, limit: str) -> Tokenizer:
    """A saved classifier's tokenizer with its prompt, which may be forged; texts must have room beside it.

    Parameters
    ----------
    tokenizer : Tokenizer
        Without the prompt.
    prompt : str
        Empty for none.
    origin : str
        File of the prompt, for messages.
    max_length : int
        Most tokens of a text, special ones included.
    limit : str
        ``max_length`` and its file, as the subject of a message.

    Raises
    ------
    ModelError
        If the prompt's tokens depend on the text, or special tokens and prompt leave no room for text.
    """
    try:
        tokenizer = with_prompt(tokenizer, prompt)
    except UsageError as error:
        raise ModelError(f"{origin}: {error}") from error
    if (count := special_count(tokenizer)) >= max_length:
        raise ModelError(
            f"{limit} leaves no room for text beside the tokenizer's {count} special tokens, the prompt's included."
        )
    return tokenizer


def _spec(state: ClassifierState) -> CheckpointSpec:
    """Content of ``pyllmclf.json``."""
    from ..version import __version__

    model_spec, tokenizer = state.model.spec, state.tokenizer
    return CheckpointSpec(
        pyllmclf_version=__version__,
        model_type=state.model.config.model_type,
        classes=list(state.encoder.classes),
        label_separator=state.label_separator,
        pooling=model_spec.pooling,
        causal=model_spec.causal,
        head_bias=model_spec.bias,
        pooler=model_spec.pooler,
        format_version=_format_version(state),
        max_length=state.layout.max_length,
        pad_to=state.layout.pad_to,
        long_texts=state.layout.long_texts,
        pair_truncation=state.layout.pair_truncation,
        tokenizer=TokenizerSpec(
            tokenizer.kind,
            getattr(tokenizer, "pad_token", None),
            tokenizer.splits_special_tokens,
            tokenizer.prompt,
            None if tokenizer.pairs is None else list(tokenizer.pairs.between),
        ),
        lora=None if state.lora is None else asdict(state.lora),
        temperature=state.temperature,
        metrics=state.metrics,
        base=BaseSpec(state.hub_id, state.revision, None if state.lora is None else state.base_sha256),
        settings=state.settings,
        int8=None if state.int8 is None else state.int8.record(),
        held_out=None if state.held_out is None else state.held_out.record(),
        training_rows=None if state.training_rows is None else state.training_rows.record(),
        decisions=state.decisions.to_record(),
    )


def _format_version(state: ClassifierState) -> int:
    """The oldest version of the format that can express the classifier."""
    if state.decisions:
        return WITH_DECISIONS
    if state.has_pairs:
        return WITH_PAIRS
    if state.tokenizer.prompt:
        return WITH_PROMPT
    return FORMAT_VERSION if state.model.spec.pooler else WITHOUT_POOLER


def _int8_layers(record: Mapping[str, Any] | None, folder: Path) -> Int8Layers | None:
    if record is None:
        return None
    names = tuple(record["layers"]), tuple(record["left_out"])
    # Checkpoints of before have no factors.
    factors = read_tensors(folder / INT8_FILE) if (folder / INT8_FILE).exists() else {}
    return Int8Layers(*names, float(record["agreement"]), record["texts"], factors)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and fp32 values, in order of names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Kind:
    """What data a classifier takes.

    Attributes
    ----------
    label_separator : str or None
        Separator of a text's labels; ``None`` where each text has one label.
    has_pairs : bool
        Whether texts are pairs.
    """

    label_separator: str | None = None
    has_pairs: bool = False


def kind_of(path: Path) -> Kind:
    """What data a checkpoint takes, which is not checked.

    It lets a caller read data before the weights; :func:`pyllmclf.load` checks the checkpoint.

    Parameters
    ----------
    path : Path
        As for :func:`pyllmclf.load`.

    Returns
    -------
    Kind
        Single texts with one label each, where the checkpoint can't be read.
    """
    numbered = [
        folder
        for parent in (path, path / HELD_OUT)
        for folder in sorted(parent.glob("checkpoint-*"), key=lambda each: (len(each.name), each.name), reverse=True)
    ]
    for folder in (path, path / "last", *numbered):
        for name in (SPEC_FILE, "config.json"):
            try:
                content = parse_json((folder / name).read_text(encoding="utf-8"))
                if name == SPEC_FILE:
                    separator = content["label_separator"]
                    separator = separator if isinstance(separator, str) and separator.strip() else None
                    return Kind(separator, content["tokenizer"].get("between") is not None)
                multi_label = content.get("problem_type") == "multi_label_classification"
                return Kind(MultiLabelEncoder(()).separator if multi_label else None)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
    return Kind()
