"""all-MiniLM-L6-v2, a BERT, with its weights under the names of RoBERTa or DistilBERT: the same hidden states.

Real weights of an architecture whose classifier has a layer of its own before the head.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

SENTENCE_FILES = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
DISTILBERT_NAMES = (
    (r"^encoder\.layer\.", "transformer.layer."),
    (r"attention\.self\.query\.", "attention.q_lin."),
    (r"attention\.self\.key\.", "attention.k_lin."),
    (r"attention\.self\.value\.", "attention.v_lin."),
    (r"attention\.output\.dense\.", "attention.out_lin."),
    (r"attention\.output\.LayerNorm\.", "sa_layer_norm."),
    (r"(layer\.\d+)\.intermediate\.dense\.", r"\1.ffn.lin1."),
    (r"(layer\.\d+)\.output\.dense\.", r"\1.ffn.lin2."),
    (r"(layer\.\d+)\.output\.LayerNorm\.", r"\1.output_layer_norm."),
)
WORDS, POSITIONS, TYPES = (f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))


def rewrite(bert: Path, folder: Path, family: str, *, sentence: bool = True) -> Path:
    """Writes the folder of a ``"roberta"`` or ``"distilbert"`` with a BERT's weights and tokenizer.

    Parameters
    ----------
    bert : Path
        Folder of a BERT of sentence-transformers with ``model.safetensors`` and ``tokenizer.json``.
    folder : Path
        Made; its parent exists.
    family : str
    sentence : bool
        Whether the folder has the files of sentence-transformers, which name the pooling.

    Returns
    -------
    Path
        ``folder``.
    """
    folder.mkdir()
    for name in ("tokenizer.json", *(SENTENCE_FILES if sentence else ())):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(bert / name, folder / name)
    raw = json.loads((bert / "config.json").read_text(encoding="utf-8"))
    tensors = {name: tensor for name, tensor in load_file(bert / "model.safetensors").items() if "pooler" not in name}
    tensors.pop("embeddings.position_ids", None)
    config, tensors = (_roberta if family == "roberta" else _distilbert)(raw, tensors)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": raw["max_position_embeddings"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(specials | kind), encoding="utf-8")
    return folder


def _roberta(raw: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """Positions begin after the padding token's id; all tokens are of one type."""
    unused, positions = raw["pad_token_id"] + 1, tensors[POSITIONS]
    shifted = positions.new_zeros(unused + len(positions), positions.shape[1])
    shifted[unused:] = positions
    config = raw | {
        "model_type": "roberta",
        "architectures": ["RobertaModel"],
        "type_vocab_size": 1,
        "max_position_embeddings": len(shifted),
    }
    return config, tensors | {POSITIONS: shifted, TYPES: tensors[TYPES][:1]}


def _distilbert(raw: dict, tensors: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """No token types: that of the first type is added to each position."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in DISTILBERT_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    renamed[POSITIONS] = renamed[POSITIONS] + renamed.pop(TYPES)[0]
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertModel"],
        "vocab_size": raw["vocab_size"],
        "max_position_embeddings": raw["max_position_embeddings"],
        "dim": raw["hidden_size"],
        "n_layers": raw["num_hidden_layers"],
        "n_heads": raw["num_attention_heads"],
        "hidden_dim": raw["intermediate_size"],
        "activation": raw["hidden_act"],
        "initializer_range": raw["initializer_range"],
        "pad_token_id": raw["pad_token_id"],
    }, renamed
