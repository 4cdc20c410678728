"""A trained classifier."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..choices import ExportFormat
from ..compute import Compute
from ..data.labels import MultiLabelEncoder
from ..data.lengths import LengthReport, truncation
from ..data.packing import Packer
from ..data.readers import Label, TextData
from ..data.sources import read_data
from ..data.token_store import TokenStore
from ..distributed import ProcessGroup
from ..errors import DataError, UsageError
from ..evaluation.metrics import EvaluationResult, evaluate_logits
from ..evaluation.multi_label import MultiLabelResult, evaluate_multi_label
from ..paths import user_path
from ..progress import warn
from ..random_state import keeps_random_state
from ..text_pair import Text, TextPair
from ..torch_state import own_torch_state
from .checkpoint import is_run_checkpoint, save_checkpoint
from .deciding import Deciding
from .decision_figures import decision_figures
from .decision_options import DecisionOptions
from .decisions import Decisions
from .export import check_export, export_classifier, merged_state
from .inference import ActivationLookup, RowMeasure, predict_logits
from .inputs import calibration_texts
from .int8 import choose_layers, use_int8
from .replaceable import check_replaceable, is_run
from .state import ClassifierState


class Classifier(Deciding):
    """Predicts the classes of texts; :func:`pyllmclf.finetune` and :func:`pyllmclf.load` return one.

    Attributes
    ----------
    classes_ : list of str, int or bool
        Labels, in the order of the columns of :meth:`predict_proba`.
    state : ClassifierState
        Model, tokenizer, labels and layout of the rows.
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
        self._warned_of_truncation = False
        # Texts that the layers in int8 were chosen on.
        self.calibration: list[Text] | None = None
        state.model.to(self.device)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
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
        """Labels, in the order of the columns of :meth:`predict_proba`."""
        return list(self.state.encoder.classes)

    def __repr__(self) -> str:
        config, spec = self.state.model.config, self.state.model.spec
        return (
            f"Classifier({config.model_type}, {config.n_layers} layers of {config.width}, "
            f"pooling={spec.pooling!r}, causal={spec.causal}, classes={self.state.encoder.names})"
        )

    def packer(self, texts: list[Text], labels: np.ndarray | None = None, keep_in: Path | None = None) -> Packer:
        """Tokenizes texts and makes a packer of them.

        Parameters
        ----------
        texts : list of str or of TextPair
        labels : ndarray, optional
            Encoded labels; see :class:`pyllmclf.data.packing.Packer`.
        keep_in : Path, optional
            Folder of the disk cache of tokens.

        Raises
        ------
        DataError
            If a text can't be tokenized, or has a token outside the model's vocabulary; if texts are pairs and the
            classifier reads single ones, or the other way round.
        """
        tokenizer = self.state.tokenizer
        if texts and isinstance(texts[0], TextPair) is not self.state.has_pairs:
            kinds = ("pairs of texts", "single") if self.state.has_pairs else ("single texts", "pairs")
            raise DataError(f"the classifier reads {kinds[0]}, and these texts are {kinds[1]}.")
        if keep_in is None:
            store = TokenStore.from_texts(texts, tokenizer)
        else:
            store = TokenStore.cached(keep_in, texts, tokenizer)
        store.check(self.state.model.config.vocab_size)
        return Packer(store, self.state.tokenizer, self.state.layout, labels)

    def decide(self, probabilities: np.ndarray, distances: np.ndarray | None = None) -> list[Any]:
        """The labels that :meth:`predict` returns for probabilities [texts, classes] and distances [texts]."""
        return self.answers(probabilities, distances)[0]

    def evaluate(
        self,
        data: Any,
        *,
        split: str | None = None,
        text_column: str | int | Sequence[str | int] | None = None,
        text_pair_column: str | int | None = None,
        label_column: str | int | None = None,
        empty_texts: str = "keep",
        encoding_errors: str = "strict",
        missing: str = "error",
        encoding: str = "auto",
        delimiter: str | None = None,
        header: bool = True,
        abstain: Any = None,
        progress: bool = False,
    ) -> EvaluationResult | MultiLabelResult:
        """Computes metrics on labelled data.

        Metrics are those of all texts, also of those that get no answer; the result's ``decisions`` has the figures of
        the classifier's rules.

        Parameters
        ----------
        data
            Name of a data set, path of a file, DataFrame, ``datasets.Dataset`` or ``(texts, labels)``; for a classifier
            of pairs ``(texts, pairs, labels)``.
        split : {"train", "validation", "test", "all"}, optional
            Split of data that have splits; by default ``"test"``, else ``"validation"``, else all with a warning.
        text_column, text_pair_column, label_column : str or int, optional
            Columns by name or number, several text columns as a list; by default they are found.
        empty_texts : {"keep", "skip", "error"}
            Whether texts that are empty or white space are kept, left out and counted in ``lengths``, or raise.
        encoding_errors : {"strict", "replace"}
            Whether bytes of a file that its encoding lacks raise, or become U+FFFD.
        encoding, delimiter, header
            As for :func:`pyllmclf.finetune`.
        missing : {"error", "skip"}
            Whether rows whose text or label is missing raise, or are left out and counted in ``lengths``.
        abstain : mapping, str or False, optional
            As for :meth:`predict`.
        progress : bool
            Whether a bar is shown.

        Returns
        -------
        EvaluationResult, or MultiLabelResult where texts may have several labels

        Raises
        ------
        DataError
            If the data can't be read, or a label is not one of the classes.
        UsageError
            If ``abstain`` is malformed, or can't be reached on the held-out texts.
        """
        decisions = self.decisions_of(DecisionOptions(abstain=abstain))
        labelled_texts = read_data(
            data,
            split=split,
            default_split="test",
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            pairs=self.state.has_pairs,
            label_separator=self.state.label_separator,
            empty_texts=empty_texts,
            encoding_errors=encoding_errors,
            missing=missing,
            encoding=encoding,
            delimiter=delimiter,
            header=header,
        )
        return self.evaluate_texts(labelled_texts, decisions=decisions, progress=progress)

    def evaluate_texts(
        self, data: TextData, *, decisions: Decisions | None = None, progress: bool = False
    ) -> EvaluationResult | MultiLabelResult:
        """Computes metrics on labelled texts.

        Parameters
        ----------
        data : TextData
        decisions : Decisions, optional
            Other rules than the classifier's.
        progress : bool
            Whether a bar is shown.

        Raises
        ------
        DataError
            If a label is not one of the classes.
        """
        labels = self.state.encoder.encode(data)
        started = time.perf_counter()
        packer = self.packer(data.texts, labels)
        return self.evaluate_packed(
            packer, skipped=data.skipped, started=started, decisions=decisions, progress=progress
        )

    @keeps_random_state()
    def evaluate_packed(
        self,
        packer: Packer,
        *,
        skipped: int = 0,
        started: float | None = None,
        lookup: ActivationLookup | None = None,
        group: ProcessGroup | None = None,
        decisions: Decisions | None = None,
        progress: bool = False,
    ) -> EvaluationResult | MultiLabelResult:
        """Computes metrics on tokenized texts.

        Parameters
        ----------
        packer : Packer
            With labels.
        skipped : int
            Number of empty texts that are left out.
        started : float, optional
            Value of ``time.perf_counter`` when the work on the texts began; now by default.
        lookup, group
            As for :func:`pyllmclf.classifier.inference.predict_logits`.
        decisions : Decisions, optional
            Other rules than the classifier's.
        progress : bool
            Whether a bar is shown.
        """
        started = time.perf_counter() if started is None else started
        decisions = self.decisions if decisions is None else decisions
        rows = self.state.training_rows
        measure = None if decisions.unlike is None or rows is None else rows.statistics.distances
        found = self.packed_logits(packer, lookup=lookup, group=group, progress=progress, measure=measure)
        return self.evaluate_outputs(found, packer, skipped=skipped, started=started, decisions=decisions)

    def evaluate_outputs(
        self, found: np.ndarray, packer: Packer, *, skipped: int, started: float, decisions: Decisions
    ) -> EvaluationResult | MultiLabelResult:
        """Metrics of what :meth:`packed_logits` has returned; arguments as for :meth:`evaluate_packed`."""
        assert packer.text_labels is not None
        several = isinstance(self.state.encoder, MultiLabelEncoder)
        logits, distances = self.split_outputs(found)
        labels, figures, predictions = packer.text_labels, None, None
        if decisions:
            probabilities = self.probabilities_of(logits)
            predictions = decisions.predictions(probabilities, several=several)
            figures = decision_figures(decisions, probabilities, labels, distances, self.state.encoder.names)
        return (evaluate_multi_label if several else evaluate_logits)(
            logits,
            labels,
            self.classes_,
            seconds=time.perf_counter() - started,
            lengths=LengthReport.of(packer, self.state.tokenizer, skipped).to_dict(),
            predictions=predictions,
            decisions=figures,
        )

    @keeps_random_state()
    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a checkpoint that :func:`pyllmclf.load` opens, which is complete or absent.

        Parameters
        ----------
        path : path
            A new or empty folder, or one of a classifier that was saved before, which is replaced at once.
        overwrite : bool
            Whether the folder of a run, or one of its checkpoints, is replaced too; never a folder with other files.

        Raises
        ------
        UsageError
            If the folder holds anything but a saved classifier, or is of a training run and ``overwrite`` is false.
        ResourceError
            If the folder can't be written.
        """
        folder = Path(user_path(path))
        if overwrite:
            check_replaceable(folder)
        elif is_run_checkpoint(folder) or is_run(folder):
            raise UsageError(
                f"{path} is of a training run, which may resume from it; choose another folder, or replace it with "
                "overwrite=True."
            )
        save_checkpoint(folder, self.state, overwrite=overwrite)

    @keeps_random_state()
    @own_torch_state()
    def export(
        self,
        path: str | os.PathLike[str],
        format: ExportFormat = "huggingface",
        *,
        overwrite: bool = False,
        quantize: Any = None,
    ) -> None:
        """Writes a folder for other tools, without pyllmclf's own files.

        Parameters
        ----------
        path : path
            A new or empty folder.
        format : {"huggingface", "peft", "onnx", "torch"}
            ``"huggingface"`` opens with ``AutoModelForSequenceClassification``, with LoRA merged into the weights.
            ``"peft"`` is the adapter of a classifier that was trained with LoRA. ``"onnx"`` is a ``model.onnx`` that
            maps ``input_ids`` and ``attention_mask`` [texts, length] to ``logits`` [texts, classes], for a causal or a
            bidirectional classifier with any pooling that does not read padding; of a BERT of pairs ``token_type_ids``
            too. ``"torch"`` is the same graph as ``model.pt2``, for ``torch.export.load``.
        overwrite : bool
            Whether the folder of an earlier export, classifier or run is replaced, at once; never one with other files.
        quantize : True, iterable of str, path, or name of a data set, optional
            With ``"onnx"``: the graph computes in int8, in the layers that :func:`pyllmclf.load` chooses with these
            texts as its ``calibration``. onnxruntime classifies the texts, and at least 99.5 % of the labels must be
            those of float32. ``True``: the texts of a classifier that was loaded in int8 with a ``calibration``.

        Raises
        ------
        ModelError
            If int8 changes too many labels.
        UsageError
            If the format can't express the classifier, a package is missing, or the path exists and is neither an
            empty folder nor one that ``overwrite`` replaces.
        ResourceError
            If the folder can't be written.
        """
        target, finish = Path(user_path(path)), None
        if quantize is not None and quantize is not False:
            if format != "onnx":
                raise UsageError(f"quantize is for format='onnx', not {format!r}; leave it out.")
            check_export(self.state, target, format, overwrite=overwrite)
            finish = self._quantizer(quantize)
        export_classifier(self.state, target, format, overwrite=overwrite, finish=finish)

    def _quantizer(self, quantize: Any) -> Callable[[Path], None]:
        """What rounds an exported graph to int8, and checks it on texts."""
        from .onnx_int8 import check_installed, quantize_graph

        check_installed()
        copied = deepcopy(self.state) if self.state.lora is None else merged_state(self.state)
        exact = Classifier(copied, device="cpu", dtype="float32", backend=self.backend)
        chosen, texts = self.state.int8, self.calibration
        if quantize is not True:
            texts = calibration_texts(quantize, pairs=self.state.has_pairs)
        elif chosen is None or texts is None:
            raise UsageError("quantize=True is for a classifier loaded in int8 with a calibration; give texts.")
        # onnxruntime's graphs have no factors of rows.
        chosen = choose_layers(exact, self.compute, texts, smooth=False)
        use_int8(exact.state.model, ())
        return partial(quantize_graph, exact, layers=chosen.layers, texts=texts)

    @own_torch_state()
    def merge_lora(self) -> Classifier:
        """A classifier with LoRA merged into its weights and the same logits; itself if it has no LoRA."""
        if self.state.lora is None:
            return self
        return Classifier(merged_state(self.state), compute=self.compute)

    @keeps_random_state()
    def packed_logits(
        self,
        packer: Packer,
        *,
        lookup: ActivationLookup | None = None,
        group: ProcessGroup | None = None,
        progress: bool = False,
        measure: RowMeasure | None = None,
    ) -> np.ndarray:
        """Logits of tokenized texts; see :func:`pyllmclf.classifier.inference.predict_logits`.

        Texts that are truncated are reported: with ``progress`` in a line each time, otherwise in a warning once. In a
        training, which has a ``group``, the run reports them.
        """
        if packer.cut and group is None and (progress or not self._warned_of_truncation):
            warn(truncation(packer), progress)
            self._warned_of_truncation = True
        return predict_logits(
            self.state.model, packer, self.compute, lookup=lookup, group=group, progress=progress, measure=measure
        )
