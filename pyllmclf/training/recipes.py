"""Settings that are left to the run: a rule on the model, the texts, the classes and what is trained.

docs/training.md has the measurements that its numbers come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..argument_checks import AUTO
from ..errors import ModelError, UsageError
from ..memory import physical_memory
from ..models.architectures.registry import architecture_of
from ..models.config import ModelConfig
from ..models.hub import ModelSource
from ..settings import ARGUMENTS, CONTRASTIVE, CROSS_ENTROPY, Settings
from ..text_pair import Text, characters

if TYPE_CHECKING:
    from ..choices import Loss, Pooling, Scheduler

Phase = Literal["measure", "held_out", "refit", "tuned"]
MEASURE: Phase = "measure"
HELD_OUT: Phase = "held_out"
REFIT: Phase = "refit"
TUNED: Phase = "tuned"
PHASE, MAY_TAKE_HEAD = "phase", "may_take_head"
"""Names among the settings that a training's checkpoints record."""
STEPS = ("epochs", "batch_size", "learning_rate", "scheduler", "warmup_ratio")
"""Settings of optimizer steps that the rule chooses."""
BATCH_SIZE = 8
LEAST_EPOCHS, MOST_EPOCHS, LEAST_STEPS = 3, 40, 100
CONTRASTIVE_STEPS, CONTRASTIVE_BATCH, OF_EACH_CLASS = 10, 16, 4
"""Steps at least, and texts of a batch at least: so many of each class on average."""
CONTRASTIVE_TEXTS = 24
"""Texts of a class, up to which the contrastive loss is minimised."""
MANY_CLASSES = 16
"""From so many classes on, few texts of each favour the frozen model of a sentence-transformers folder, whose head is
solved; and trained layers take twice the learning rate."""
FEW_TEXTS, MOST_CLASSES = 40, 500
"""Texts of a class, below which this holds, and classes, above which solving the head takes longer than training."""
LEARNING_RATES = {"all": 1e-4, "last_block": 2e-4, "lora": 1e-3, "head": 3e-3}
"""Of models of width 384; wider ones divide all but the head's by width / 384."""
TWO_LAYER_RATE, TWO_LAYER_EPOCHS = 1e-3, 3
"""Of the head alone, where the classifier has a layer of its own before it (RoBERTa, DistilBERT, ModernBERT): the rate
for few classes; and for many, at the rate above, how many times the epochs."""
RANDOM_RATE = 1e-3
"""For weights that are random, whatever is trained."""
MOST_OPERATIONS = {"cpu": 1e14, "cuda": 1e17}
"""Floating-point operations of a training that ``trainable="auto"`` may take: about 20 minutes of two cores at 80
GFLOP/s, or of a GPU at 80 TFLOP/s. A count, and no measured time, and the machine's whole memory: what else runs there
changes nothing."""
BYTES_PER_PARAMETER = 16
"""Of a trained parameter: itself, its gradient, and AdamW's two moments, in fp32."""


@dataclass(frozen=True)
class TrainingTexts:
    """What the rule knows of the training texts.

    Attributes
    ----------
    texts : sequence of str or of TextPair
    classes : int
    device : torch.device
        Where they are computed.
    processes : int
        Number of processes that train together.
    """

    texts: Sequence[Text]
    classes: int
    device: torch.device
    processes: int = 1

    def tokens(self, longest: int, *, windows: bool, prompt: str = "") -> int:
        """About how many tokens are read: one for four characters, the prompt's included, and two special ones.

        At most ``longest`` of each text; in windows, which overlap by half, nearly all of a longer text twice.
        """
        counts = ((len(prompt) + characters(text)) // 4 + 2 for text in self.texts)
        return sum(count if count <= longest else 2 * count if windows else longest for count in counts)


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(Settings):
    """Settings of a run, none of which is ``"auto"``.

    Attributes
    ----------
    solved : bool
        Whether the head is solved to its optimum; no optimizer step is taken then.
    pooler : bool
        See :class:`pyllmclf.models.sequence_classifier.HeadSpec`.
    automatic : bool
        Whether what is trained, the learning rate or the number of epochs is the rule's choice.
    phase : {"measure", "held_out", "refit", "tuned"}, optional
        Where validation texts are held out by default: the training without them that another one follows
        (``"measure"``) or none (``"held_out"``), and the one on all texts. ``"tuned"`` is that of a search's winner.
    may_take_head : bool
        Whether the head alone is trained after this training, where that is better.
    """

    if TYPE_CHECKING:
        pooling: Pooling | None
        epochs: int
        batch_size: int
        learning_rate: float
        warmup_ratio: float
        scheduler: Scheduler
        prompt: str
        loss: Loss
    solved: bool = False
    pooler: bool = True
    automatic: bool = False
    phase: Phase | None = None
    may_take_head: bool = False

    @property
    def recorded(self) -> dict[str, Any]:
        """What a checkpoint records beside the values: the phase, and that a solved head has no settings of steps."""
        values: dict[str, Any] = dict.fromkeys(STEPS, AUTO) if self.solved else {}
        if self.may_take_head:
            values[MAY_TAKE_HEAD] = True
        return values if self.phase is None else values | {PHASE: self.phase}


def resolve_settings(
    settings: Settings, source: ModelSource, texts: TrainingTexts, recorded: Mapping[str, Any]
) -> ResolvedSettings:
    """Chooses the values of the settings that are left to the run; what is given explicitly stays.

    Parameters
    ----------
    settings : Settings
    source : ModelSource
    texts : TrainingTexts
    recorded : mapping
        Settings that the resumed checkpoint records, or choices of an earlier training of the call; empty without.

    Raises
    ------
    UsageError
        If a solved head is resumed with a setting of steps.
    ModelError
        If the model comes from sentence-transformers with a pooling, or a module behind it, that the engine lacks, or
        names a prompt that its files lack; and the setting is left to the run.
    """
    values: dict[str, Any] = {each.name: getattr(settings, each.name) for each in fields(Settings)}
    sentence = source.sentence
    if settings.max_length is None and sentence is not None and sentence.max_length is not None:
        values["max_length"] = min(sentence.max_length, source.config.n_positions)
    values["prompt"] = prompt = source.resolve_prompt(settings.prompt)
    epochs, trainable = settings.epochs, settings.trainable
    contrasts = _contrasts(settings, source, texts) if settings.loss == AUTO else settings.loss == CONTRASTIVE
    if contrasts and texts.processes > 1:
        raise UsageError("loss='contrastive' compares the texts of a batch, and needs one process; start one.")
    batch_size = min(64, max(CONTRASTIVE_BATCH, OF_EACH_CLASS * texts.classes)) if contrasts else BATCH_SIZE
    if AUTO in (epochs, trainable):
        longest, windows = values["max_length"] or source.config.n_positions, settings.long_texts == "windows"
        tokens = texts.tokens(longest, windows=windows, prompt=prompt)
        if epochs == AUTO:
            rows = max(len(texts.texts), tokens // longest) if windows else len(texts.texts)
            least = (1, CONTRASTIVE_STEPS) if contrasts else (LEAST_EPOCHS, LEAST_STEPS)
            epochs = _epochs(rows, tokens, settings, batch_size, *least)
        if trainable == AUTO:
            trainable = _trainable(settings, source, texts, tokens, int(epochs))
    values["trainable"], values["loss"] = trainable, CONTRASTIVE if contrasts else CROSS_ENTROPY
    # A layer before the head that belongs to the classifier (RoBERTa, DistilBERT, ModernBERT) needs steps.
    two_layers = trainable == "head" and architecture_of(source.config).prediction_head is not None
    frozen = trainable == "head" and not two_layers
    rate = learning_rate_of(trainable, settings.weights, source.config.width, texts.classes)
    if two_layers and AUTO == settings.epochs == settings.learning_rate:
        if texts.classes >= MANY_CLASSES:
            epochs = min(MOST_EPOCHS, TWO_LAYER_EPOCHS * int(epochs))
        else:
            rate = TWO_LAYER_RATE
    # A resumed run of a solved head may have other arguments that change no result, such as save_every_steps.
    was_solved = all(recorded.get(name) == AUTO for name in STEPS)
    if was_solved and (steps := [name for name in STEPS if getattr(settings, name) != AUTO]):
        raise UsageError(
            f"{settings.output_dir}: {steps[0]} was 'auto' there, and is {getattr(settings, steps[0])!r}: the head was "
            "solved without steps; leave it out, or choose another output_dir (--output-dir)."
        )
    solves = was_solved if "trainable" in recorded else not settings.asks_for_steps
    solved = frozen and bool(recorded.get("solved", solves))
    automatic: dict[str, Any] = {
        "dropout": 0.0,
        "pooling": None,
        "epochs": 1 if solved else epochs,
        "batch_size": batch_size,
        "learning_rate": rate,
        "scheduler": "linear",
        "warmup_ratio": 0.1,
    }
    pooler = recorded.get("pooler") is not False or recorded.get("pooling") != settings.pooling
    if sentence is not None and settings.pooling == AUTO:
        if sentence.pooling is None:
            raise ModelError(
                f"{source.name}: sentence-transformers' configuration {sentence.obstacle}, which pyllmclf lacks; "
                "give pooling to read the text otherwise."
            )
        if prompt and sentence.pooling == "mean" and not sentence.pools_prompt:
            raise ModelError(
                f"{source.name}: sentence-transformers' configuration leaves the prompt out of the mean, which "
                "pyllmclf can't; give pooling or prompt to read the text otherwise."
            )
        automatic["pooling"], pooler = sentence.pooling, False
    values |= {name: value for name, value in automatic.items() if values[name] == AUTO}
    chosen = AUTO in (settings.trainable, settings.learning_rate, settings.epochs)
    return ResolvedSettings(**values, solved=solved, pooler=pooler, automatic=chosen)


def taking_over(asked: Settings, begun: ResolvedSettings) -> Settings:
    """Settings of a later training of a call: what is left to the run is as the first one has chosen it.

    Where another part of the model is trained, the settings of steps are chosen anew.
    """
    left = [name for name, each in ARGUMENTS.items() if each.resolved and getattr(asked, name) in (None, AUTO)]
    if asked.padding == "train_longest":  # the recorded length is that of the first training's longest text
        left = [name for name in left if name != "max_length"]
    if begun.solved or asked.trainable not in (AUTO, begun.trainable):
        left = [name for name in left if name not in (*STEPS, "loss")]
    values = {name: getattr(begun, name) for name in left}
    return replace(asked, **{name: value for name, value in values.items() if value not in (None, AUTO)})


def chosen_line(asked: Settings, settings: ResolvedSettings) -> str | None:
    """A line that says what the rule has chosen; ``None`` where everything is given."""
    names = ("trainable",) if settings.solved else ("trainable", *STEPS)
    if settings.loss == CONTRASTIVE:
        names = (*names, "loss")
    chosen = {name: getattr(settings, name) for name in names if getattr(asked, name) == AUTO}
    if asked.prompt == AUTO and settings.prompt:
        chosen["prompt"] = repr(settings.prompt)
    if not chosen:
        return None
    shown = ", ".join(f"{name}={value}" for name, value in chosen.items())
    return f"chosen automatically: {shown}{'; the head is solved' if settings.solved else ''}"


def _contrasts(settings: Settings, source: ModelSource, texts: TrainingTexts) -> bool:
    """Whether the rule takes the contrastive loss: for few texts of few classes, and a model that embeds texts."""
    return (
        source.sentence is not None
        and settings.weights == "pretrained"
        and settings.trainable != "head"
        and not settings.changes_steps
        and not settings.multi_label
        and settings.class_weights is None
        and texts.processes == 1
        and 1 < texts.classes < MANY_CLASSES
        and len(texts.texts) <= CONTRASTIVE_TEXTS * texts.classes
    )


def _epochs(rows: int, tokens: int, settings: Settings, batch_size: int, least_epochs: int, least_steps: int) -> int:
    """Passes over so many texts, or windows: at least so many, and about so many steps."""
    batch = batch_size if settings.batch_size == AUTO else int(settings.batch_size)
    batches = rows / batch if settings.batch_tokens is None else min(rows, tokens / settings.batch_tokens)
    steps = math.ceil(batches / settings.gradient_accumulation_steps)
    return min(MOST_EPOCHS, max(least_epochs, math.ceil(least_steps / steps)))


def learning_rate_of(trainable: str, weights: str, width: int, classes: int) -> float:
    """The rule's learning rate for what is trained, on a model of this width."""
    if weights == "random":
        return RANDOM_RATE
    kind = trainable if trainable in LEARNING_RATES else "last_block"
    if kind == "head":
        return LEARNING_RATES[kind]
    rate = LEARNING_RATES[kind] * min(1.0, 384 / width) * (2 if classes >= MANY_CLASSES else 1)
    return float(f"{rate:.2g}")


def training_operations(config: ModelConfig, trained: int, tokens: int, epochs: int) -> float:
    """Floating-point operations of a training of the last ``trained`` blocks on so many tokens.

    A block of width d has 12 d² parameters. For each of them a token takes two operations forward, and four backward if
    it is trained; what is frozen is computed once (Kaplan et al. 2020, section 2.1).
    """
    block, layers = 12 * config.width**2, config.n_layers
    return float(tokens * block * (6 * trained * epochs + 2 * (layers - trained)))


def _trainable(settings: Settings, source: ModelSource, texts: TrainingTexts, tokens: int, epochs: int) -> str:
    """What is trained: all layers, or as many as the operations and the memory allow, or the head alone."""
    config, device = source.config, texts.device
    few = MANY_CLASSES <= texts.classes <= MOST_CLASSES and len(texts.texts) < FEW_TEXTS * texts.classes
    solvable = architecture_of(config).prediction_head is None and not settings.asks_for_steps
    solvable = solvable and settings.loss != CONTRASTIVE
    if few and solvable and source.sentence is not None and settings.weights == "pretrained":
        return "head"
    block, layers = 12 * config.width**2, config.n_layers
    shared = architecture_of(config).shares_layers
    memory = physical_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[1]
    for trained in (layers, *(count for count in (4, 2) if count < layers and not shared)):
        operations = training_operations(config, trained, tokens, epochs)
        embeddings = config.vocab_size * (config.embedding_width or config.width) if trained == layers else 0
        fits = BYTES_PER_PARAMETER * (block * (1 if shared else trained) + embeddings) <= memory // 2
        if fits and operations <= MOST_OPERATIONS[device.type]:
            return "all" if trained == layers else f"last_{trained}_blocks"
    return "head" if shared else "last_block"
