"""The checkpoint: a folder that Hugging Face tools open, plus what only pyllmclf knows.

``config.json``, ``model.safetensors`` and tokenizer files, or for LoRA ``adapter_config.json``,
``adapter_model.safetensors`` and, where the base is no revision on the hub, ``base/``; ``pyllmclf.json``,
``training_state/`` and the manifest beside them. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.atomic_folder import Writer, text_writer, verify_folder, write_folder
from ..data.json_text import parse_json
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.packing import RowLayout
from ..data.tokenizers import Tokenizer, restore_tokenizer
from ..errors import ModelError, UsageError
from ..models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    adapter_state,
    load_adapter,
    peft_config,
    read_tensors,
)
from ..models.architectures import architecture_of
from ..models.hub import fetch_revision, read_config, read_json
from ..models.lora import LoRAConfig
from ..models.sequence_classifier import HeadSpec, SequenceClassifier
from ..models.weights import (
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    backbone_state,
    check_size,
    head_state,
    load_weights,
)
from .model_card import model_card

FORMAT_VERSION = 1
SPEC_FILE = "pyllmclf.json"
CARD_FILE = "README.md"
STATE_FILE = "training_state/state.json"
OPTIMIZER_FILE = "training_state/optimizer.safetensors"
# Whatever of these is there must be in the manifest.
COVERED = (
    SPEC_FILE,
    "config.json",
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    "tokenizer.json",
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    "base/config.json",
    f"base/{WEIGHTS_FILE}",
    f"base/{WEIGHTS_INDEX}",
    STATE_FILE,
    OPTIMIZER_FILE,
)


@dataclass
class ClassifierState:
    """Everything that makes a classifier.

    Attributes
    ----------
    model : SequenceClassifier
    tokenizer : Tokenizer
    encoder : LabelEncoder or MultiLabelEncoder
    layout : RowLayout
    lora : LoRAConfig or None
    hub_id, revision : str or None
        Where the pretrained weights came from, if a hub revision.
    settings : dict
        Arguments of the run; what they left to the architecture or machine is filled in.
    base_sha256 : str or None
        Hash of the frozen base of a LoRA classifier, once it was computed.
    temperature : float or None
        By which calibration has divided the logits; the head has it already.
    metrics : dict
        Headline figures by part, for the model card.
    """

    model: SequenceClassifier
    tokenizer: Tokenizer
    encoder: LabelEncoder | MultiLabelEncoder
    layout: RowLayout
    lora: LoRAConfig | None = None
    hub_id: str | None = None
    revision: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    base_sha256: str | None = None
    temperature: float | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def label_separator(self) -> str | None:
        """What stands between the labels of a text; ``None`` where each has one."""
        return self.encoder.separator if isinstance(self.encoder, MultiLabelEncoder) else None


def why_not_transformers(state: ClassifierState) -> str | None:
    """Why transformers' own class can't express the classifier; ``None`` if it can."""
    spec, architecture = state.model.spec, architecture_of(state.model.config)
    name = architecture.class_name
    if state.layout.pad_to:
        return f"{name} masks padding, and this classifier reads it"
    if state.layout.long_texts not in ("head", "tail"):
        return f"{name} reads one piece of a long text, and this classifier has long_texts={state.layout.long_texts!r}"
    if spec.causal != architecture.causal:
        return f"{name} is {'causal' if architecture.causal else 'bidirectional'}, and this classifier is not"
    if not architecture.expresses(spec.pooling):
        return f"{name} reads the {architecture.pooling} token, and this classifier uses pooling={spec.pooling!r}"
    if spec.bias != architecture.head_bias:
        has = "with" if architecture.head_bias else "without"
        return f"{name} has a head {has} bias, and this classifier has it otherwise"
    return None


def why_not_padded(state: ClassifierState) -> str | None:
    """Why a graph on padded batches can't express the classifier; ``None`` if it can."""
    if state.layout.pad_to or state.model.spec.pooling == "last_position":
        return "a graph masks padding, and this classifier reads it"
    if state.layout.long_texts not in ("head", "tail"):
        return f"a graph reads one piece of a long text, and this classifier has long_texts={state.layout.long_texts!r}"
    return None


def save_checkpoint(
    folder: Path,
    state: ClassifierState,
    training_state: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
    *,
    keep_others: bool = False,
) -> None:
    """Writes a complete checkpoint, or nothing.

    Parameters
    ----------
    folder : Path
    state : ClassifierState
    training_state : mapping, optional
        How far training is, as JSON can hold it.
    optimizer : mapping of str to tensor, optional
        What the optimizer remembers.
    keep_others : bool
        As for :func:`write_folder`.

    Raises
    ------
    ResourceError
        If it can't be written.
    """
    files = dict(model_files(state))
    spec = _spec(state)
    if state.lora is not None:
        # LoRA leaves the base as it is: one hash serves every checkpoint of a run.
        state.base_sha256 = state.base_sha256 or content_hash(backbone_state(state.model))
        spec["base"]["sha256"] = state.base_sha256
    files[SPEC_FILE] = text_writer(json.dumps(spec, indent=2))
    files[STATE_FILE] = text_writer(json.dumps(dict(training_state or {}), indent=2))
    need = _parameter_bytes(state)
    if optimizer:
        files[OPTIMIZER_FILE] = _tensor_writer(optimizer)
        need += sum(tensor.nbytes for tensor in optimizer.values())
    write_folder(folder, files, need, keep_others=keep_others)


def _parameter_bytes(state: ClassifierState) -> int:
    """Of the weights that a checkpoint holds; with LoRA, where the base lies on the hub, the adapter's alone."""
    adapter_only = state.lora is not None and _base_on_hub(state)
    return sum(p.nbytes for p in state.model.parameters() if p.requires_grad or not adapter_only)


def side_files(state: ClassifierState) -> dict[str, Writer]:
    """Configuration and tokenizer, which go with a graph."""
    return _tokenizer_files(state) | {"config.json": text_writer(json.dumps(huggingface_config(state), indent=2))}


def _tokenizer_files(state: ClassifierState) -> dict[str, Writer]:
    side = "left" if state.layout.long_texts == "tail" else "right"
    found = state.tokenizer.files(state.layout.max_length, side)
    return {name: text_writer(content) for name, content in found.items()}


def model_files(state: ClassifierState) -> dict[str, Writer]:
    """The files that Hugging Face tools read."""
    card = model_card(state, in_transformers=why_not_transformers(state) is None)
    files = _tokenizer_files(state) | {CARD_FILE: text_writer(card)}
    if state.lora is None:
        files["config.json"] = text_writer(json.dumps(huggingface_config(state), indent=2))
        files[WEIGHTS_FILE] = _tensor_writer(backbone_state(state.model) | head_state(state.model))
        return files
    on_hub = _base_on_hub(state)
    base, revision = (state.hub_id, state.revision) if on_hub else ("base", None)
    assert base is not None
    peft = peft_config(state.model, state.lora, base, revision)
    files[ADAPTER_CONFIG] = text_writer(json.dumps(peft, indent=2))
    files[ADAPTER_FILE] = _tensor_writer(adapter_state(state.model))
    if not on_hub:
        files["base/config.json"] = text_writer(json.dumps(huggingface_config(state), indent=2))
        files[f"base/{WEIGHTS_FILE}"] = _tensor_writer(backbone_state(state.model))
    return files


def huggingface_config(state: ClassifierState) -> dict[str, Any]:
    """``config.json`` of the classifier."""
    config, spec = state.model.config, state.model.spec
    names = state.encoder.names
    raw = dict(config.raw)
    raw |= {
        "model_type": config.model_type,
        "architectures": [architecture_of(config).class_name],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": f"{'single' if state.label_separator is None else 'multi'}_label_classification",
        "pad_token_id": state.tokenizer.pad_token_id,
    }
    for key in ("torch_dtype", "dtype", "_name_or_path", "num_labels", "_num_labels"):
        raw.pop(key, None)
    raw["dtype"] = "float32"
    if config.pooling is not None:
        raw["classifier_pooling"] = "mean" if spec.pooling == "mean" else "cls"
    if config.position_offset:  # positions are counted from it
        raw["pad_token_id"] = config.position_offset - 1
    if why_not_transformers(state) is not None:
        # AutoModel refuses instead of answering wrongly.
        raw |= {"model_type": "pyllmclf", "architectures": ["PyllmclfSequenceClassifier"]}
        raw["pyllmclf_base_model_type"] = config.model_type
    return raw


def load_checkpoint(path: Path) -> ClassifierState:
    """Reads a checkpoint, or the newest one of a run's folder.

    Raises
    ------
    ModelError
        If there is none, or it is damaged or of a later format.
    """
    while True:
        folder = find_checkpoint(path)
        try:
            return _opened(folder)
        except ModelError:
            if folder.exists():
                raise
            # A training that goes on has deleted it: there is a newer one.


def _opened(folder: Path) -> ClassifierState:
    spec = read_json(folder / SPEC_FILE)
    if (version := spec.get("format_version")) != FORMAT_VERSION:
        raise ModelError(f"{folder}: format version {version!r} is not {FORMAT_VERSION}; update pyllmclf.")
    try:
        return _load(folder, spec)
    except (KeyError, TypeError, IndexError, AttributeError, UsageError) as error:
        raise ModelError(f"{folder / SPEC_FILE}: incomplete or malformed ({error!r}).") from error


def find_checkpoint(path: Path) -> Path:
    """``path`` itself, what it is a link to, or its newest complete ``checkpoint-STEP`` folder; every file's hash is
    checked.

    Warns about each newer one that is damaged. One that a training deletes meanwhile is none.

    Raises
    ------
    ModelError
        If there is none, or ``path`` is one that is damaged.
    """
    while True:
        is_one = (path / SPEC_FILE).is_file()
        found = [path.resolve() if path.is_symlink() else path] if is_one else _newest_first(path)
        for candidate in found:
            try:
                verify_folder(candidate, COVERED)
            except ModelError as error:
                if not candidate.exists():
                    break
                if is_one:
                    raise
                warnings.warn(f"{error} An older checkpoint is looked for.", stacklevel=2)
                continue
            return candidate
        else:
            raise ModelError(f"{path}: there is no complete pyllmclf checkpoint; give the folder that finetune wrote.")


def is_of_a_run(folder: Path) -> bool:
    """Whether a folder is a checkpoint that a training wrote, which may go on from it."""
    try:
        return bool(read_json(folder / STATE_FILE))
    except ModelError:
        return False


def training_history(folder: Path) -> list[dict[str, Any]]:
    """The figures of each epoch, as the checkpoint of a run holds them; none of a classifier that was saved later."""
    history = read_json(folder / STATE_FILE).get("history")
    return [record for record in history if isinstance(record, dict)] if isinstance(history, list) else []


def _newest_first(path: Path) -> list[Path]:
    found = []
    for candidate in path.glob("checkpoint-*"):
        try:
            found.append((int(parse_json((candidate / STATE_FILE).read_text(encoding="utf-8"))["step"]), candidate))
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            if candidate.exists():
                warnings.warn(f"{candidate}: damaged ({error!r}). An older checkpoint is looked for.", stacklevel=3)
    return [candidate for _, candidate in sorted(found, reverse=True)]


def _load(folder: Path, spec: Mapping[str, Any]) -> ClassifierState:
    lora = LoRAConfig.coerce(spec["lora"]) if spec["lora"] is not None else None
    base_folder = folder
    if lora is not None:
        base = spec["base"]
        base_folder = folder / "base"
        if not base_folder.is_dir():
            base_folder = fetch_revision(base["hub_id"], base["revision"])
    config = read_config(base_folder)
    classes, separator = tuple(spec["classes"]), spec["label_separator"]
    encoder = LabelEncoder(classes) if separator is None else MultiLabelEncoder(classes, separator)
    head = HeadSpec.resolve(config, spec["pooling"], spec["causal"], spec["head_bias"])
    layout = RowLayout(spec["max_length"], spec["pad_to"], spec["long_texts"])
    layout.check(config.n_positions)
    check_size(config, base_folder)
    model = SequenceClassifier(config, len(encoder.classes), head)
    load_weights(model, base_folder, head=lora is None)
    if lora is not None:
        if content_hash(backbone_state(model)) != spec["base"]["sha256"]:
            raise ModelError(f"{base_folder}: the base model is not the one that the adapter was trained on.")
        load_adapter(model, lora, read_tensors(folder / ADAPTER_FILE), folder / ADAPTER_FILE)
    kind, pad_token = spec["tokenizer"]["kind"], spec["tokenizer"]["pad_token"]
    try:
        content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / 'tokenizer.json'}: can't be read ({error}).") from error
    tokenizer = restore_tokenizer(kind, content, {"pad_token": pad_token}, str(folder / "tokenizer.json"))
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelError(f"{folder}: the tokenizer has more tokens than the model's embedding.")
    model.requires_grad_(False)
    return ClassifierState(
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        layout=layout,
        lora=lora,
        hub_id=spec["base"]["hub_id"],
        revision=spec["base"]["revision"],
        settings=spec["settings"],
        base_sha256=spec["base"]["sha256"],
        temperature=spec["temperature"],
        metrics=spec["metrics"],
    )


def _spec(state: ClassifierState) -> dict[str, Any]:
    from .. import __version__

    model_spec = state.model.spec
    return {
        "format_version": FORMAT_VERSION,
        "pyllmclf_version": __version__,
        "model_type": state.model.config.model_type,
        "classes": list(state.encoder.classes),
        "label_separator": state.label_separator,
        "pooling": model_spec.pooling,
        "causal": model_spec.causal,
        "head_bias": model_spec.bias,
        "max_length": state.layout.max_length,
        "pad_to": state.layout.pad_to,
        "long_texts": state.layout.long_texts,
        "tokenizer": {"kind": state.tokenizer.kind, "pad_token": getattr(state.tokenizer, "pad_token", None)},
        "lora": None if state.lora is None else asdict(state.lora),
        "temperature": state.temperature,
        "metrics": state.metrics,
        "base": {"hub_id": state.hub_id, "revision": state.revision, "sha256": None},
        "settings": state.settings,
    }


def _base_on_hub(state: ClassifierState) -> bool:
    """Whether an adapter may name the hub's model as its base, which is what transformers' class would compute on."""
    return state.hub_id is not None and state.revision is not None and why_not_transformers(state) is None


def _tensor_writer(tensors: Mapping[str, Tensor]) -> Writer:
    def write(path: Path) -> None:
        from safetensors.torch import save_file

        save_file(dict(tensors), path, metadata={"format": "pt"})
        # safetensors makes it readable for the owner alone; the folder's mode carries the user's umask.
        path.chmod(path.parent.stat().st_mode & 0o666)

    return write


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and fp32 contents, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
