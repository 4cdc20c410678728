"""The record that describes an architecture, and the protocol that its modules follow."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..data.tokenizers import Tokenizer, Vocabulary
from .config import ModelConfig
from .context import Context


class Backbone(Protocol):
    """The pretrained model: :meth:`embed`, each of :attr:`blocks`, :meth:`finish` and :meth:`pooled`, in that order.

    A backbone is a module, and so is each block. A block takes (x, context, pooled) and returns its rows: with a
    :class:`pyllmclf.models.context.PooledRows` as ``pooled`` those rows alone, shape [texts, width], which only the
    last block gets; with ``None`` all rows. A module before the last linear layer that belongs to the classifier is the
    submodule ``prediction_head``.

    Where all blocks have the same parameters, these stand in the stage of the first block alone, and the layers are
    :attr:`pyllmclf.models.layers.Linear.reused`.
    """

    def embed(self, context: Context) -> Tensor:
        """Hidden states before the first block, shape [total, width]."""

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""

    def finish(self, x: Tensor) -> Tensor:
        """Hidden states after the last block's final norm, if there is one, shape [rows, width], of x [rows, width]."""

    def pooled(self, x: Tensor, context: Context) -> Tensor:
        """Input of the head, shape [texts, width], from the pooled rows x [texts, width]."""

    @property
    def behind_blocks(self) -> list[nn.Module]:
        """Modules with parameters between the last block and the head."""

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules with parameters: those of the embedding, of each block, and after the blocks."""


@dataclass(frozen=True)
class Package:
    """An installable package that carries a model folder.

    Attributes
    ----------
    name : str
        As pip knows it.
    folder : str
        Place of the model folder: the module, and the path in it.
    sha256 : str
        Hash of the weights, ``model.safetensors``.
    """

    name: str
    folder: str
    sha256: str

    def find(self) -> Path | None:
        """The model folder; ``None`` where the package is not installed."""
        module, _, inner = self.folder.partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(next(iter(spec.submodule_search_locations))) / inner


@dataclass(frozen=True)
class Preset:
    """A built-in configuration and where its pretrained weights are.

    Attributes
    ----------
    config : dict
        Content of a Hugging Face ``config.json``.
    hub_id : str or None
        ``None`` where there are no pretrained weights.
    tokenizer : callable, optional
        Makes the tokenizer without any file of the hub's repository.
    package : Package or None
        Where it is installed, its files are read instead of the hub's.
    prompt : str
        String that the model was trained to read before each text; empty for none.
    """

    config: dict[str, Any]
    hub_id: str | None
    tokenizer: Callable[[], Tokenizer] | None = None
    package: Package | None = None
    prompt: str = ""


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes
    ----------
    model_type : str
        Its name in ``config.json``.
    title : str
        Its name in messages.
    backbone : callable
        Takes a :class:`ModelConfig`; returns a :class:`Backbone`.
    class_name : str
        Name of transformers' classifier.
    read_config : callable
        Takes the content of a ``config.json`` and its path for messages; returns a :class:`ModelConfig`. It may raise
        ``KeyError`` for a missing key; :func:`pyllmclf.models.architectures.registry.model_config` turns that into a
        :class:`ModelError`.
    prefix : str
        Prefix of the backbone's tensors in a classifier's file.
    head : str
        Name of the last linear layer there.
    unneeded : pattern
        Tensors of known files that a classifier does not need: masks, position counters, heads of other tasks.
    prediction_head : str or None
        Name, in a classifier's file, of the module before the head that belongs to the classifier rather than to the
        pretrained model: a linear layer, for ModernBERT with a norm.
    saved_modules : tuple of str
        PEFT's names for the modules of the head.
    renamed : tuple of (pattern, str)
        Old names in files, and their replacements.
    transposed : pattern or None
        Weights that files hold as [in, out]; the engine holds [out, in].
    residual_projections : tuple of str
        Last parts of the names of projections into the residual stream, whose random weights are scaled by
        1 / sqrt(2 n_layers).
    position_table : bool
        Whether positions have a table of embeddings.
    pretrained_pooler : bool
        Whether the pretrained model has a layer ``pooler`` between the pooled row and the head.
    shares_layers : bool
        Whether all blocks have the same parameters, which are then trained together or not at all.
    causal, pooling, head_bias : bool, str, bool
        The architecture's convention.
    poolings : tuple of str
        Poolings that transformers' classifier can read; if empty, the convention's only.
    configures_pooling : bool
        Whether ``config.json`` names the pooling of a classifier (``classifier_pooling``).
    vocabulary : Vocabulary, optional
        Vocabulary format that may take the place of a ``tokenizer.json``.
    presets : mapping of str to Preset
    """

    model_type: str
    title: str
    backbone: Callable[[ModelConfig], Backbone]
    class_name: str
    read_config: Callable[[dict[str, Any], str], ModelConfig]
    prefix: str
    head: str
    unneeded: re.Pattern[str]
    prediction_head: str | None = None
    saved_modules: tuple[str, ...] = ("classifier",)
    renamed: tuple[tuple[re.Pattern[str], str], ...] = ()
    transposed: re.Pattern[str] | None = None
    residual_projections: tuple[str, ...] = ()
    position_table: bool = True
    pretrained_pooler: bool = False
    shares_layers: bool = False
    causal: bool = False
    pooling: str = "first"
    head_bias: bool = True
    poolings: tuple[str, ...] = ()
    configures_pooling: bool = False
    vocabulary: Vocabulary | None = None
    presets: Mapping[str, Preset] = field(default_factory=dict)

    def of_backbone(self, name: str) -> bool:
        """Whether a parameter of the engine's backbone belongs to the pretrained model."""
        return not name.startswith("prediction_head.")

    def file_name(self, name: str) -> str:
        """Name in a classifier's file of the engine's parameter ``backbone.*`` or ``head.*``."""
        module, _, rest = name.partition(".")
        if module == "head":
            return f"{self.head}.{rest}"
        if self.of_backbone(rest):
            return self.prefix + rest
        return f"{self.prediction_head}.{rest.removeprefix('prediction_head.')}"

    def parameter_name(self, name: str) -> str:
        """The engine's name of a tensor in a file of a classifier or a pretrained model, with or without the prefix."""
        if name.startswith(f"{self.head}."):
            return "head." + name.removeprefix(f"{self.head}.")
        if self.prediction_head is not None and name.startswith(f"{self.prediction_head}."):
            return "backbone.prediction_head." + name.removeprefix(f"{self.prediction_head}.")
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.renamed:
            name = pattern.sub(replacement, name)
        return f"backbone.{name}"

    def convention(self, config: ModelConfig) -> dict[str, Any]:
        """Default ``pooling``, ``causal`` and ``bias`` of a classifier."""
        return {"pooling": config.pooling or self.pooling, "causal": self.causal, "bias": self.head_bias}

    def least_parameters(self, config: ModelConfig) -> int:
        """A lower bound of the number of parameters: the matrices that every architecture has."""
        tables = config.vocab_size + config.type_vocab_size + (config.n_positions if self.position_table else 0)
        attention = 2 * (config.n_heads + config.kv_heads) * config.head_dim
        blocks = 1 if self.shares_layers else config.n_layers
        embedding = (config.embedding_width or config.width) * tables
        return embedding + blocks * config.width * (attention + 2 * config.inner_width)
