"""The classifier before its first step: tokens, row layout, head, dropout rates and low-rank layers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from ..classifier.state import ClassifierState
from ..compute import Compute
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.packing import RowLayout
from ..data.token_store import TokenStore
from ..data.tokenizers import PromptedTokenizer, special_count
from ..errors import UsageError
from ..lora_config import LoRAConfig
from ..models.build import build_model, take_adapter
from ..models.config import ModelConfig
from ..models.hub import ModelSource
from ..models.layers import DropoutRates
from ..models.sequence_classifier import HeadSpec
from ..models.weights import widen_trained
from ..settings import CONTRASTIVE, recorded_settings
from ..text_pair import Text
from .recipes import ResolvedSettings
from .trainable import set_trainable


def dropout_rates(dropout: float | str, config: ModelConfig, lora: LoRAConfig | None) -> DropoutRates:
    """Resolves the rate of each site: one for all, or with ``"config"`` those of the model's configuration."""
    lora_rate = 0.0 if lora is None else lora.dropout
    if dropout == "config":
        return DropoutRates(
            embedding=config.embedding_dropout,
            attention=config.attention_dropout,
            hidden=config.hidden_dropout,
            head=config.head_dropout,
            lora=lora_rate,
        )
    assert not isinstance(dropout, str)
    return DropoutRates(dropout, dropout, dropout, dropout, lora_rate)


def resolve_lora(settings: ResolvedSettings, source: ModelSource) -> LoRAConfig | None:
    """Resolves the low-rank layers: those of an adapter that is trained further, otherwise those of the settings.

    Raises
    ------
    UsageError
        If the model is an adapter and the settings have ``lora``.
    """
    if source.adapter is None or settings.lora_config is None:
        return settings.lora_config
    if settings.lora is not None:
        raise UsageError(f"{source.name} is an adapter, whose low-rank layers are trained further; leave lora out.")
    return source.adapter.lora


def make_token_store(texts: list[Text], source: ModelSource, settings: ResolvedSettings) -> TokenStore:
    """Tokenizes texts, or reads their tokens from ``cache_dir``.

    Raises
    ------
    DataError
        If a text can't be tokenized, or a token is outside of the model's vocabulary.
    ResourceError
        If ``cache_dir`` can't be written.
    """
    if settings.cache_dir is None:
        store = TokenStore.from_texts(texts, source.tokenizer)
    else:
        store = TokenStore.cached(Path(settings.cache_dir), texts, source.tokenizer)
    store.check(source.config.vocab_size)
    return store


def make_initial_state(
    settings: ResolvedSettings,
    compute: Compute,
    source: ModelSource,
    lora: LoRAConfig | None,
    encoder: LabelEncoder | MultiLabelEncoder,
    store: TokenStore,
) -> ClassifierState:
    """Makes the classifier before its first step, on the CPU; :func:`select_trained` chooses the trained parameters.

    Parameters
    ----------
    settings : Settings
    compute : Compute
    source : ModelSource
    lora : LoRAConfig or None
    encoder : LabelEncoder or MultiLabelEncoder
        Of the training texts.
    store : TokenStore
        Tokens of the training texts.

    Raises
    ------
    UsageError, ModelError, ResourceError
        If the settings don't fit the model, its weights are unavailable, or memory doesn't suffice.
    """
    head = HeadSpec.resolve(
        source.config, settings.pooling, settings.causal, settings.head_bias, pooler=settings.pooler
    )
    tokenizer = source.tokenizer
    specials = special_count(tokenizer)
    layout = RowLayout.resolve(
        settings.padding,
        settings.max_length,
        settings.long_texts,
        positions=source.config.n_positions,
        longest_train=int(store.lengths.max()) + len(tokenizer.prefix) + len(tokenizer.suffix),
        specials=specials,
        prompt=tokenizer.prompt_count if isinstance(tokenizer, PromptedTokenizer) else 0,
        pair_truncation=settings.pair_truncation,
    )
    pretrained = settings.weights == "pretrained"
    merged = source.adapter is not None and lora is None
    # Absent from records where there is a pooler, as in those of versions that always had it.
    head_settings = {name: value for name, value in asdict(head).items() if name != "pooler" or not value}
    resolved = {
        "lora": None if lora is None else asdict(lora),
        "device": str(compute.device),
        "dtype": compute.dtype_name,
    }
    model = build_model(
        source,
        len(encoder.classes),
        head,
        encoder,
        pretrained=pretrained,
        lora=lora is not None,
        seed=settings.seed,
        keep_bf16=compute.dtype is torch.bfloat16,
    )
    return ClassifierState(
        model=model,
        tokenizer=source.tokenizer,
        encoder=encoder,
        layout=layout,
        lora=lora,
        hub_id=source.hub_id if pretrained and not merged else None,
        revision=source.revision if pretrained and not merged else None,
        settings=recorded_settings(settings, head_settings | asdict(layout) | resolved | settings.recorded),
    )


def select_trained(state: ClassifierState, settings: ResolvedSettings, source: ModelSource) -> None:
    """Sets ``requires_grad``, and adds low-rank layers or those of an adapter that is trained further.

    Raises
    ------
    UsageError, ModelError
        If the model has fewer blocks or layers than the settings name, or the adapter doesn't fit.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    set_trainable(state.model, settings.trainable, state.lora, generator)
    if settings.loss == CONTRASTIVE:  # its head is solved
        state.model.head.requires_grad_(False)
    widen_trained(state.model)
    if source.adapter is not None and state.lora is not None:
        take_adapter(state.model, source, state.encoder)
