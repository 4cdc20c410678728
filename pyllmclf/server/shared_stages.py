"""Several classifiers on one pass over a batch: stages that are equal in them run once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..classifier.checkpoint import content_hash
from ..classifier.classifier import Classifier
from ..classifier.inference import inference_batch, model_outputs
from ..data.packing import PackedBatch, Packer
from ..models.config import canonical_fields
from ..models.layers import Linear
from ..models.sequence_classifier import SequenceClassifier
from ..torch_state import own_torch_state


@dataclass(frozen=True)
class SharedSpan:
    """Consecutive stages that are equal in some classifiers of a group.

    Attributes
    ----------
    model : SequenceClassifier
        One of the classifiers' models, which computes the stages.
    start, end : int
        The stages from ``start`` up to ``end``, exclusive.
    members : tuple of int
        The classifiers, by their index in the group.
    branches : tuple of SharedSpan
        Spans of several of these classifiers that begin at ``end``.
    alone : tuple of int
        Classifiers whose stages from ``end`` on are theirs alone.
    """

    model: SequenceClassifier
    start: int
    end: int
    members: tuple[int, ...]
    branches: tuple[SharedSpan, ...]
    alone: tuple[int, ...]

    def spans(self) -> Iterator[SharedSpan]:
        """This span and all that branch from it."""
        yield self
        for branch in self.branches:
            yield from branch.spans()


class ClassifierGroup:
    """Classifiers that read the same rows of a text: one tokenizer, layout, mask, device and dtype.

    Parameters
    ----------
    classifiers : sequence of Classifier
        Of the same :func:`group_key`.

    Attributes
    ----------
    classifiers : tuple of Classifier
    root : SharedSpan
        The stages that all classifiers have in common, which may be none.
    """

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        self.classifiers = tuple(classifiers)
        self.compute = classifiers[0].compute
        # Hashes of the weights are needed where something can be shared.
        alone = len(classifiers) == 1
        keys = [["" for _ in range(c.state.model.depth)] if alone else stage_keys(c) for c in classifiers]
        self.root = self._span(keys, tuple(range(len(classifiers))), 0)

    def _span(self, keys: list[list[str]], members: tuple[int, ...], start: int) -> SharedSpan:
        end, model = start, self.classifiers[members[0]].state.model
        if len(members) > 1:
            while end < model.depth and len({keys[member][end] for member in members}) == 1:
                end += 1
        groups: dict[str, list[int]] = {}
        for member in members:
            groups.setdefault(keys[member][end] if end < model.depth else str(member), []).append(member)
        branches = tuple(self._span(keys, tuple(group), end) for group in groups.values() if len(group) > 1)
        alone = tuple(group[0] for group in groups.values() if len(group) == 1)
        return SharedSpan(model, start, end, members, branches, alone)

    def share_memory(self, new: Collection[Classifier]) -> None:
        """Lets the parameters of equal stages be one tensor, so that the memory of new classifiers is released.

        Parameters
        ----------
        new : collection of Classifier
            Those that compute nothing yet; the others' parameters stay where they are.
        """
        for span in self.root.spans():
            models = [
                (self.classifiers[member].state.model, self.classifiers[member] in new) for member in span.members
            ]
            source = next((model for model, is_new in models if not is_new), models[0][0])
            for model, is_new in models:
                for stage in range(span.start, span.end) if is_new and model is not source else ():
                    _share(source.backbone.stages[stage], model.backbone.stages[stage])

    @own_torch_state()
    def logits(self, packer: Packer, wanted: np.ndarray) -> list[Tensor | None]:
        """Logits of each classifier for the texts that want it.

        Parameters
        ----------
        packer : Packer
            Texts of one batch.
        wanted : ndarray of bool, shape [texts, classifiers]

        Returns
        -------
        list of (fp32 tensor, shape [texts that want the classifier, classes], or None if none does)
            With a further column of distances where the classifier's rules read them.
        """
        found: list[Tensor | None] = [None] * len(self.classifiers)
        with torch.inference_mode(), ops.use_backend(self.compute.backend):
            self._run(self.root, None, np.arange(len(packer)), packer, wanted, found)
        return found

    def _run(
        self,
        span: SharedSpan,
        x: Tensor | None,
        texts: np.ndarray,
        packer: Packer,
        wanted: np.ndarray,
        found: list[Tensor | None],
    ) -> None:
        """Computes a span for these texts, whose rows at its start are x, and all that follows it."""
        batch = inference_batch(span.model, packer, texts, self.compute.device)
        if span.start < span.end:
            read = span.model.read(batch)
            x = span.model.advance(x, read, span.start, span.end, dtype=self.compute.dtype)
        for branch in span.branches:
            chosen = np.flatnonzero(wanted[texts][:, list(branch.members)].any(axis=1))
            if len(chosen):
                rows = _rows_of(span, x, batch, chosen)
                self._run(branch, rows, texts[chosen], packer, wanted, found)
        for member in span.alone:
            chosen = np.flatnonzero(wanted[texts, member])
            if len(chosen):
                rows = _rows_of(span, x, batch, chosen)
                model = self.classifiers[member].state.model
                own = batch
                if len(chosen) < len(texts):
                    own = inference_batch(model, packer, texts[chosen], self.compute.device)
                cached = None if rows is None else (span.end, rows)
                measure = self.classifiers[member].measure
                found[member] = model_outputs(model, own, self.compute.dtype, cached, measure)


def _rows_of(span: SharedSpan, x: Tensor | None, batch: PackedBatch, chosen: np.ndarray) -> Tensor | None:
    """The rows of some texts of a batch, at the end of a span, of x, the rows of all its texts."""
    if x is None or len(chosen) == len(batch):
        return x
    if span.model.one_row(span.end):
        return x[torch.from_numpy(chosen).to(x.device)]
    bounds = batch.cu_seqlens.cpu().numpy()
    rows = np.concatenate([np.arange(bounds[text], bounds[text + 1]) for text in chosen])
    return x[torch.from_numpy(rows).to(x.device)]


def group_key(classifier: Classifier) -> object:
    """What classifiers have in common if a text has the same rows, of the same shape, in all of them."""
    state, compute = classifier.state, classifier.compute
    model = state.model
    config = canonical_fields(model.config)
    sizes = repr(sorted((name, value) for name, value in config.items() if not name.endswith("_dropout")))
    reads = model.spec.causal, model.reads_first_row_only
    tokenizer = state.tokenizer
    tokens = (
        *(tokenizer.fingerprint, tokenizer.pad_token_id, tuple(tokenizer.prefix), tuple(tokenizer.suffix)),
        tokenizer.pairs,
    )
    return sizes, state.layout, reads, tokens, compute.device, compute.dtype, compute.backend


def stage_keys(classifier: Classifier) -> list[str]:
    """A hash for each stage before the head: equal hashes mean equal outputs of equal inputs."""
    model, keys = classifier.state.model, []
    for stage, modules in enumerate(model.backbone.stages):
        digest = hashlib.sha256()
        if model.one_row(stage + 1):
            digest.update(f"{model.pooling.name} {model.spec.pooler}".encode())
        for module in modules:
            _add_module(digest, module)
        keys.append(digest.hexdigest())
    assert len(keys) == model.depth
    return keys


def _add_module(digest: hashlib._Hash, module: nn.Module) -> None:
    """Adds what the output of a module depends on."""
    digest.update(content_hash(dict(module.named_parameters())).encode())
    for name, part in module.named_modules():
        if isinstance(part, Linear):
            digest.update(f"{name} {part.scaling} {part.int8 is not None}".encode())
            if isinstance(part.int8, ops.Int8Weight) and part.int8.factors is not None:
                digest.update(part.int8.factors.cpu().numpy().data)


def _share(modules: Sequence[nn.Module], others: Sequence[nn.Module]) -> None:
    for module, other in zip(modules, others, strict=True):
        parameters = dict(module.named_parameters())
        for name, parameter in other.named_parameters():
            parameter.data = parameters[name].data
        linears = {name: part for name, part in module.named_modules() if isinstance(part, Linear)}
        for name, part in other.named_modules():
            if isinstance(part, Linear):
                part.int8 = linears[name].int8
