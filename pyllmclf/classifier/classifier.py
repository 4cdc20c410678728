"""A trained classifier."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..compute import Compute
from ..data.atomic_folder import write_folder
from ..data.labels import MultiLabelEncoder
from ..data.lengths import LengthReport
from ..data.packing import Packer
from ..data.readers import Label, TextData, read_object
from ..data.sources import read_data
from ..data.token_store import TokenStore
from ..distributed import ProcessGroup
from ..errors import UsageError
from ..evaluation.metrics import EvaluationResult, evaluate_logits, softmax
from ..evaluation.multi_label import THRESHOLD, MultiLabelResult, evaluate_multi_label, sigmoid
from ..models.export import copies, write_graph
from ..models.lora import merge_lora
from ..torch_state import own_torch_state
from .checkpoint import is_of_a_run, save_checkpoint
from .huggingface import model_files, side_files
from .inference import ActivationLookup, predict_logits
from .state import ClassifierState, why_not_padded, why_not_transformers

EXPORT_FORMATS = ("huggingface", "peft", "onnx", "torch")


class Classifier:
    """Predicts the classes of texts; made by :func:`pyllmclf.finetune` and :func:`pyllmclf.load`.

    Attributes
    ----------
    classes_ : list of str or int
        Labels, in the order of the columns of :meth:`predict_proba`.
    state : ClassifierState
        Model, tokenizer and what else makes the classifier.
    compute : Compute
        Device, dtype and backend of predictions.
    """

    def __init__(
        self,
        state: ClassifierState,
        *,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        compute: Compute | None = None,
    ) -> None:
        self.state = state
        self.compute = compute or Compute.resolve(device, dtype, backend)
        state.model.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.compute.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the computation."""
        return self.compute.dtype

    @property
    def backend(self) -> str:
        """Implementation of the ops."""
        return self.compute.backend

    @property
    def classes_(self) -> list[Label]:
        return list(self.state.encoder.classes)

    def __repr__(self) -> str:
        config, spec = self.state.model.config, self.state.model.spec
        return (
            f"Classifier({config.model_type}, {config.n_layers} layers of {config.width}, "
            f"pooling={spec.pooling!r}, causal={spec.causal}, classes={self.state.encoder.names})"
        )

    def packer(self, texts: list[str], labels: np.ndarray | None = None, keep_in: Path | None = None) -> Packer:
        """Tokenizes texts and makes a packer for them; ``keep_in`` is a folder where their tokens are kept."""
        tokenizer = self.state.tokenizer
        if keep_in is None:
            store = TokenStore.from_texts(texts, tokenizer)
        else:
            store = TokenStore.cached(keep_in, texts, tokenizer)
        store.check(self.state.model.config.vocab_size)
        return Packer(store, self.state.tokenizer, self.state.layout, labels)

    def logits(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """Logits, float32, shape [texts, classes].

        Raises
        ------
        DataError
            If there is no text, or one is not a string.
        UsageError
            For a single string instead of a sequence of them.
        """
        if isinstance(texts, (str, bytes)):
            raise UsageError("predict takes a sequence of texts; put the single text into a list.")
        data = read_object(texts, text_column=None, label_column=None, labelled=False)
        return self.packed_logits(self.packer(data.texts), progress=progress)

    def predict_proba(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """Probabilities, float64, shape [texts, classes]; each class by itself where texts may have several labels."""
        logits = self.logits(texts, progress=progress)
        return softmax(logits) if self.state.label_separator is None else sigmoid(logits)

    def predict(self, texts: Iterable[str], *, progress: bool = False) -> list[Any]:
        """The most probable label of each text; where texts may have several, a list of those of at least 0.5."""
        return self.decide(self.predict_proba(texts, progress=progress))

    def decide(self, probabilities: np.ndarray) -> list[Any]:
        """What :meth:`predict` says at these probabilities."""
        encoder = self.state.encoder
        if isinstance(encoder, MultiLabelEncoder):
            return encoder.decode(probabilities >= THRESHOLD)
        return encoder.decode(probabilities.argmax(axis=1))

    def evaluate(
        self,
        data: Any,
        *,
        split: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        empty_texts: str = "keep",
        encoding_errors: str = "strict",
        progress: bool = False,
    ) -> EvaluationResult | MultiLabelResult:
        """Metrics on labelled data.

        Parameters
        ----------
        data
            Name of a data set, path of a file, DataFrame, ``datasets.Dataset`` or ``(texts, labels)``.
        split : {"train", "validation", "test", "all"}, optional
            Part of a named data set; its test part by default.
        text_column, label_column : str, optional
        empty_texts : {"keep", "skip", "error"}
            What becomes of texts that are empty or white space; those that are skipped are counted in ``lengths``.
        encoding_errors : {"strict", "replace"}
            Whether bytes of a file that are not UTF-8 are refused, or become U+FFFD.
        progress : bool

        Raises
        ------
        DataError
            If the data can't be read, or a label is none of the classes.
        """
        read = read_data(
            data,
            split=split,
            default_split="test",
            text_column=text_column,
            label_column=label_column,
            label_separator=self.state.label_separator,
            empty_texts=empty_texts,
            encoding_errors=encoding_errors,
        )
        return self.evaluate_texts(read, progress=progress)

    def evaluate_texts(self, data: TextData, *, progress: bool = False) -> EvaluationResult | MultiLabelResult:
        """Metrics on data that were read already."""
        labels = self.state.encoder.encode(data)
        started = time.perf_counter()
        packer = self.packer(data.texts, labels)
        return self.evaluate_packed(packer, skipped=data.skipped, started=started, progress=progress)

    def evaluate_packed(
        self,
        packer: Packer,
        *,
        skipped: int = 0,
        started: float | None = None,
        lookup: ActivationLookup | None = None,
        group: ProcessGroup | None = None,
        progress: bool = False,
    ) -> EvaluationResult | MultiLabelResult:
        """Metrics on texts that were tokenized already.

        Parameters
        ----------
        packer : Packer
            With labels.
        skipped : int
            Rows of the data that were left out.
        started : float, optional
            When the work on them was begun, by ``time.perf_counter``.
        lookup, group
            As for :func:`predict_logits`.
        progress : bool
        """
        assert packer.text_labels is not None
        started = time.perf_counter() if started is None else started
        logits = self.packed_logits(packer, lookup=lookup, group=group, progress=progress)
        several = isinstance(self.state.encoder, MultiLabelEncoder)
        return (evaluate_multi_label if several else evaluate_logits)(
            logits,
            packer.text_labels,
            self.state.encoder.names,
            seconds=time.perf_counter() - started,
            lengths=LengthReport.of(packer, self.state.tokenizer, skipped).to_dict(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint that :func:`pyllmclf.load` opens; complete, or absent.

        Raises
        ------
        UsageError
            If the folder exists and is no saved classifier, or is one from which a training may go on.
        ResourceError
            If it can't be written.
        """
        if is_of_a_run(Path(path)):
            raise UsageError(f"{path} is a checkpoint of a training, which may go on from it; choose another folder.")
        save_checkpoint(Path(path), self.state)

    @own_torch_state()
    def export(self, path: str | os.PathLike[str], format: str = "huggingface") -> None:
        """Writes a folder for other tools, without anything of pyllmclf's own.

        Parameters
        ----------
        path : path
        format : {"huggingface", "peft", "onnx", "torch"}
            ``"huggingface"``: opens with ``AutoModelForSequenceClassification``; LoRA is merged into the weights.
            ``"peft"``: the adapter of a classifier that was trained with LoRA. ``"onnx"``: ``model.onnx``, from
            ``input_ids`` and ``attention_mask`` [texts, length] to ``logits`` [texts, classes]; any mask and pooling
            that pads are masked in. ``"torch"``: the same as ``model.pt2``, for ``torch.export.load``.

        Raises
        ------
        UsageError
            If that format can't express the classifier, a package is missing, or the folder is there and not empty.
        """
        if format not in EXPORT_FORMATS:
            raise UsageError(f"format={format!r} is unknown; it is one of {', '.join(EXPORT_FORMATS)}.")
        if Path(path).exists() and (not Path(path).is_dir() or any(Path(path).iterdir())):
            raise UsageError(f"{path} is there already, and an export would replace it; name a new folder.")
        state = self.state
        why = why_not_padded(state) if format in ("onnx", "torch") else why_not_transformers(state)
        if why is not None:
            raise UsageError(f"the classifier can't be exported: {why}; save() keeps it as it is.")
        if format == "peft" and state.lora is None:
            raise UsageError("the classifier was not trained with LoRA, so that there is no adapter to export.")
        if format == "peft":
            write_folder(Path(path), model_files(state))
            return
        state = self._merged_state()
        if format == "huggingface":
            write_folder(Path(path), model_files(state))
            return
        with tempfile.TemporaryDirectory() as folder:
            names = write_graph(state.model, format, Path(folder), state.layout.max_length)
            write_folder(Path(path), side_files(state) | copies(Path(folder), names))

    @own_torch_state()
    def merge_lora(self) -> Classifier:
        """A classifier with the same logits whose weights have the low-rank additions; itself if it has none."""
        if self.state.lora is None:
            return self
        return Classifier(self._merged_state(), compute=self.compute)

    def _merged_state(self) -> ClassifierState:
        if self.state.lora is None:
            return self.state
        state = replace(self.state, model=deepcopy(self.state.model), lora=None, hub_id=None, revision=None)
        merge_lora(state.model)
        return state

    def packed_logits(
        self,
        packer: Packer,
        *,
        lookup: ActivationLookup | None = None,
        group: ProcessGroup | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """:meth:`logits` of tokenized texts; ``lookup`` and ``group`` as for :func:`predict_logits`."""
        return predict_logits(self.state.model, packer, self.compute, lookup=lookup, group=group, progress=progress)
