"""Files of a classifier that Hugging Face tools open."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.atomic_folder import Writer, text_writer
from ..models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, BASE_FOLDER, adapter_state, peft_config
from ..models.architectures.registry import OWN_MODEL_TYPE, architecture_of
from ..models.sentence_folder import PROMPTS, prompt_file, sentence_files
from ..models.weight_files import WEIGHTS_FILE
from ..models.weights import backbone_state, head_state
from .model_card import model_card
from .state import ClassifierState, why_not_in_tokenizer, why_not_transformers

CARD_FILE = "README.md"


def parameter_bytes(state: ClassifierState) -> int:
    """Bytes of the weights in a checkpoint: of all, or of the adapter alone where its base is on the hub."""
    adapter_only = state.lora is not None and base_on_hub(state)
    return sum(p.nbytes for p in state.model.parameters() if p.requires_grad or not adapter_only)


def side_files(state: ClassifierState) -> dict[str, Writer]:
    """Configuration and tokenizer files that accompany a graph, name to writer."""
    return _tokenizer_files(state) | {"config.json": text_writer(json.dumps(huggingface_config(state), indent=2))}


def _tokenizer_files(state: ClassifierState) -> dict[str, Writer]:
    side = "left" if state.layout.long_texts == "tail" else "right"
    contents = state.tokenizer.files(state.layout.max_length, side)
    return {name: text_writer(content) for name, content in contents.items()}


def model_files(state: ClassifierState, folder: Path | None) -> dict[str, Writer]:
    """All files of a model or adapter that Hugging Face tools read, name to writer.

    Parameters
    ----------
    state : ClassifierState
    folder : Path or None
        The folder that the files are written to. PEFT looks a base model up from the current directory, so that an
        adapter names its base by the whole path; this library looks beside the adapter first. Without a place that
        lasts, ``None``, the adapter names its base by the name of its folder alone.
    """
    card = model_card(state, in_transformers=why_not_transformers(state) is None)
    files = _tokenizer_files(state) | {CARD_FILE: text_writer(card)}
    if not state.model.spec.pooler:  # who trains the classifier further reads texts in the same way
        contents = sentence_files(state.model.spec.pooling, state.layout.max_length)
        files |= {name: text_writer(content) for name, content in contents.items()}
    if why_not_in_tokenizer(state) is not None:  # otherwise tokenizer.json has the prompt
        files[PROMPTS] = text_writer(prompt_file(state.tokenizer.prompt))
    if state.lora is None:
        files["config.json"] = text_writer(json.dumps(huggingface_config(state), indent=2))
        files[WEIGHTS_FILE] = tensor_writer(backbone_state(state.model) | head_state(state.model))
        return files
    on_hub = base_on_hub(state)
    here = BASE_FOLDER if folder is None else os.path.join(os.path.realpath(folder), BASE_FOLDER)
    base, revision = (state.hub_id, state.revision) if on_hub else (here, None)
    assert base is not None
    peft = peft_config(state.model, state.lora, base, revision)
    files[ADAPTER_CONFIG] = text_writer(json.dumps(peft, indent=2))
    files[ADAPTER_FILE] = tensor_writer(adapter_state(state.model))
    if not on_hub:
        files[f"{BASE_FOLDER}/config.json"] = text_writer(json.dumps(huggingface_config(state), indent=2))
        files[f"{BASE_FOLDER}/{WEIGHTS_FILE}"] = tensor_writer(backbone_state(state.model))
    return files


def huggingface_config(state: ClassifierState) -> dict[str, Any]:
    """Content of the classifier's ``config.json``."""
    config = state.model.config
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
    if architecture_of(config).configures_pooling and state.model.pooling.huggingface is not None:
        raw["classifier_pooling"] = state.model.pooling.huggingface
    if config.position_offset:  # RoBERTa counts positions from the padding token's id
        raw["pad_token_id"] = config.position_offset - 1
    if why_not_transformers(state) is not None:
        # AutoModel refuses instead of answering wrongly.
        raw |= {"model_type": OWN_MODEL_TYPE, "architectures": ["PyllmclfSequenceClassifier"]}
        raw["pyllmclf_base_model_type"] = config.model_type
    return raw


def base_on_hub(state: ClassifierState) -> bool:
    """Whether an adapter can name a model on the hub as its base, which transformers opens with its own class."""
    return state.hub_id is not None and state.revision is not None and why_not_transformers(state) is None


def tensor_writer(tensors: Mapping[str, Tensor]) -> Writer:
    """A writer of a safetensors file."""

    def write(path: Path) -> None:
        from safetensors.torch import save_file

        save_file(dict(tensors), path, metadata={"format": "pt"})
        # safetensors makes the file readable by its owner only; the folder's mode has the user's umask.
        path.chmod(path.parent.stat().st_mode & 0o666)

    return write
