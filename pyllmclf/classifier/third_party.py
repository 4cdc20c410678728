"""Reads classifiers that transformers or PEFT saved."""

from __future__ import annotations

from pathlib import Path
from reprlib import repr as shortened

from ..data.atomic_folder import MANIFEST, verify_folder
from ..data.json_text import is_unicode
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.packing import RowLayout
from ..data.tokenizers import Tokenizer
from ..data.tokenizers.added_tokens import CONFIG_FILE
from ..errors import ModelError
from ..models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, load_adapter
from ..models.architectures.registry import architecture_of
from ..models.hub import ModelSource, class_names, file_prompt, find_model, read_json, with_own_tokenizer
from ..models.sequence_classifier import HeadSpec, SequenceClassifier
from ..models.weight_files import check_size
from ..models.weights import head_size, load_weights
from .checkpoint import SPEC_FILE, with_saved_prompt
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
    source = with_own_tokenizer(find_model(path, "pretrained"))
    config, adapter = source.config, source.adapter
    problem = config.raw.get("problem_type")
    if problem not in (None, "single_label_classification", "multi_label_classification"):
        raise ModelError(
            f"{path}: problem_type is {problem!r}; only single- and multi-label classification is supported."
        )
    assert source.folder is not None
    names = _class_names(path, source)
    check_size(config, source.folder)
    model = SequenceClassifier(config, len(names), HeadSpec.resolve(config, None, None, None))
    load_weights(model, source.folder, head=adapter is None)
    if adapter is not None:
        load_adapter(model, adapter.lora, adapter.tensors, path / ADAPTER_FILE)
    model.requires_grad_(False)
    layout, tokenizer = _layout_and_tokenizer(path, source)
    return ClassifierState(
        model=model,
        tokenizer=tokenizer,
        encoder=(MultiLabelEncoder if problem == "multi_label_classification" else LabelEncoder)(tuple(names)),
        layout=layout,
        lora=None if adapter is None else adapter.lora,
        hub_id=source.hub_id,
        revision=source.revision,
    )


def _class_names(path: Path, source: ModelSource) -> list[str]:
    """Names of the head's classes, in order.

    Raises
    ------
    ModelError
        If the model has no head of two classes or more, or its configuration does not name each by a string of its own.
    """
    config, adapter = source.config, source.adapter
    assert source.folder is not None
    outputs = head_size(config, source.folder) if adapter is None else adapter.n_classes(config)
    if not outputs:
        head = f"{architecture_of(config).head}.weight"
        raise ModelError(
            f"{path}: a base model without a classification head ({head} is missing); fine-tune it first, with "
            "finetune(model=...)."
        )
    if outputs == 1:
        raise ModelError(
            f"{path}: the head has one output (num_labels=1), which is a regression; only classifiers of two classes "
            "or more are supported."
        )
    labels = config.raw.get("id2label")
    if labels is None or (adapter is not None and class_names(source) == _default_names(outputs)):
        return _default_names(outputs)  # transformers does not write its default names
    where = f"{source.folder / 'config.json'}: id2label"
    if not isinstance(labels, dict):
        raise ModelError(f"{where} is {shortened(labels)}, not an object of class names.")
    for key, name in labels.items():
        if not isinstance(name, str):
            raise ModelError(f"{where}[{key!r}] is {shortened(name)}, not a string.")
        if not is_unicode(name):
            raise ModelError(f"{where}[{key!r}] is not valid Unicode: it holds a lone surrogate.")
    if len(labels) != outputs:
        raise ModelError(f"{where} has {len(labels)} names, and the head {outputs} outputs.")
    missing = next((i for i in range(outputs) if str(i) not in labels), None)
    if missing is not None:
        raise ModelError(f"{where} names no class {missing}; its keys are the numbers of the head's outputs.")
    names = [labels[str(i)] for i in range(outputs)]
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise ModelError(f"{where} names two classes {repeated!r}; each needs a name of its own.")
    return names


def _default_names(count: int) -> list[str]:
    return [f"LABEL_{i}" for i in range(count)]


def _layout_and_tokenizer(path: Path, source: ModelSource) -> tuple[RowLayout, Tokenizer]:
    """Truncation as ``tokenizer_config.json`` configures it, if there is one, and the tokenizer with its prompt.

    Raises
    ------
    ModelError
        If the prompt is forged, or leaves no room for text.
    """
    assert source.folder is not None
    file = (path if (path / CONFIG_FILE).is_file() else source.folder) / CONFIG_FILE
    config = read_json(file) if file.is_file() else {}
    positions, longest = source.config.n_positions, config.get("model_max_length")
    length, limit = positions, f"{source.folder / 'config.json'}: a length of {positions} positions"
    if isinstance(longest, (int, float)) and 1 <= longest < positions:
        length = int(longest)
        limit = f"{file}: model_max_length={length}"
    layout = RowLayout(length, 0, "tail" if config.get("truncation_side") == "left" else "head")
    origin = str((source.tokenizer_folder or source.folder) / "tokenizer.json")
    return layout, with_saved_prompt(source.tokenizer, file_prompt(source.tokenizer), origin, length, limit)
