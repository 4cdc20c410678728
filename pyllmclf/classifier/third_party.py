"""Reads classifiers that transformers or PEFT saved."""

from __future__ import annotations

from pathlib import Path

from ..data.atomic_folder import MANIFEST, verify_folder
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.packing import RowLayout
from ..errors import ModelError
from ..models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, load_adapter
from ..models.hub import class_names, find_model, read_json
from ..models.sequence_classifier import HeadSpec, SequenceClassifier
from ..models.weights import check_size, head_size, load_weights
from .checkpoint import SPEC_FILE
from .state import ClassifierState


def is_third_party(path: Path) -> bool:
    """Whether a folder holds a model or adapter of Hugging Face's libraries, and no checkpoint of this one."""
    configs = (path / name for name in ("config.json", ADAPTER_CONFIG))
    return not (path / SPEC_FILE).is_file() and any(config.is_file() for config in configs)


def load_third_party(path: Path) -> ClassifierState:
    """Reads the classifier in a folder that ``save_pretrained`` of transformers or PEFT wrote.

    The classifier reads texts as transformers' class does, and truncates long ones as its tokenizer does.

    Raises
    ------
    ModelError
        If the folder holds no complete text classifier of a supported architecture.
    """
    if (path / MANIFEST).is_file():  # an export of this library, or a checkpoint without its pyllmclf.json
        verify_folder(path, ())
    source = find_model(path, "pretrained")
    config, adapter = source.config, source.adapter
    problem = config.raw.get("problem_type")
    if problem not in (None, "single_label_classification", "multi_label_classification"):
        raise ModelError(
            f"{path}: problem_type is {problem!r}; only single- and multi-label classification is supported."
        )
    assert source.folder is not None
    names = class_names(source)
    if names is None and "id2label" not in config.raw:  # transformers does not write its default names
        names = [f"LABEL_{i}" for i in range(head_size(config, source.folder))]
    if names is None or len(set(names)) < max(2, len(names)):
        raise ModelError(f"{path}: the model has no head of two classes or more, or two classes have one name.")
    check_size(config, source.folder)
    model = SequenceClassifier(config, len(names), HeadSpec.resolve(config, None, None, None))
    load_weights(model, source.folder, head=adapter is None)
    if adapter is not None:
        load_adapter(model, adapter.lora, adapter.tensors, path / ADAPTER_FILE)
    model.requires_grad_(False)
    return ClassifierState(
        model=model,
        tokenizer=source.tokenizer,
        encoder=(MultiLabelEncoder if problem == "multi_label_classification" else LabelEncoder)(tuple(names)),
        layout=_layout(path if (path / "tokenizer_config.json").is_file() else source.folder, config.n_positions),
        lora=None if adapter is None else adapter.lora,
        hub_id=source.hub_id,
        revision=source.revision,
    )


def _layout(folder: Path, positions: int) -> RowLayout:
    """Truncation as ``tokenizer_config.json`` configures it, if there is one."""
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    longest = config.get("model_max_length")
    length = min(positions, int(longest)) if isinstance(longest, (int, float)) and longest >= 1 else positions
    return RowLayout(length, 0, "tail" if config.get("truncation_side") == "left" else "head")
