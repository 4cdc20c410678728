"""Training steps of modern architectures from random weights, against Hugging Face with dynamic padding.

``python bench/architectures.py RESULTS.jsonl --models smollm2-135m --trainable all lora last_block`` trains both sides
in turns on batches of 8 texts of SMS or IMDb lengths and appends a line for each combination: medians of the step's
seconds, their ratio, peak memory of each side (a process each), and seconds of a whole training by both rates. What is
there already is not repeated, what a line lacks is added; ``--table`` prints the results.

Both sides start from the same weights (their first losses are compared), and read the same GPT-2 tokens of SMS Spam's
and IMDb's texts, the latter up to 512 tokens. Hugging Face pads each batch to its longest text and uses SDPA, the fused
AdamW, bf16 autocast where the processor multiplies bf16, and PEFT for LoRA.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recipes import processor
from steps import LORA, SEED, multiplies_bf16, resident

BATCH_SIZE = 8
GPT2_TOKENS = 50257
SETS = {"sms": ("sms_spam", 256), "imdb": ("imdb", 512)}
# Layers of a shape that is cut to fit into memory.
LAYERS = {"qwen3-0.6b": 4}
TEXTS = 1000
EPOCHS = 5
RATE = 5e-5


def folder_of(name: str, at: Path) -> Path:
    """A model folder without weights: a preset's configuration, and GPT-2's tokenizer."""
    from pyllmclf.data.tokenizers import TiktokenTokenizer
    from pyllmclf.models.architectures.registry import presets

    config = presets()[name].config
    if name in LAYERS:
        config = config | {"num_hidden_layers": LAYERS[name]}
    # GPT-2 has 1,105 tokens more than SmolLM2.
    config = config | {"vocab_size": max(config["vocab_size"], GPT2_TOKENS)}
    (at / "config.json").write_text(json.dumps(config))
    for file, content in TiktokenTokenizer.gpt2().files(1024).items():
        (at / file).write_text(content, encoding="utf-8")
    return at


def texts_of(data: str) -> tuple[list[str], list[int]]:
    """Texts and labels, in an order that mixes classes and lengths."""
    from pyllmclf.data.named import load_named

    split = load_named(SETS[data][0])["train"]
    order = np.random.default_rng(SEED).permutation(len(split.texts))[:TEXTS]
    names = sorted(set(split.labels))
    return [split.texts[i] for i in order], [names.index(split.labels[i]) for i in order]


class Ours:
    """pyllmclf's trainer, and the order of its batches."""

    def __init__(self, folder: Path, data: str, trainable: str) -> None:
        from pyllmclf.settings import Settings
        from pyllmclf.training.prepare import prepare

        settings = Settings(
            model=folder,
            weights="random",
            train=texts_of(data),
            validation=False,
            test=False,
            trainable=trainable,
            lora=LORA if trainable == "lora" else None,
            max_length=SETS[data][1],
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            learning_rate=RATE,
            scheduler="constant",
            warmup_ratio=0.0,
            weight_decay=0.1,
            dropout=0.0,
            seed=SEED,
            cache="off",
            baselines="off",
            progress=False,
        )
        with prepare(settings) as run:
            self.trainer = run.trainer
        self.batches = [ids for (ids,) in self.trainer.epoch_steps(0)]

    def step(self, index: int) -> float:
        """Trains on a batch; returns its loss."""
        return self.trainer.train_step([self.batches[index]])[0]


class Theirs:
    """transformers, with PEFT for LoRA, on the same batches; the weights are those of our model."""

    def __init__(self, folder: Path, ours: Ours, trainable: str) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModelForSequenceClassification

        from pyllmclf.models.weights import backbone_state, head_state

        packer, source = ours.trainer.packer, ours.trainer.model
        self.rows = [packer.batch([i]).input_ids.long() for i in range(len(packer))]
        assert packer.labels is not None
        self.labels, self.batches = packer.labels, ours.batches
        config = AutoConfig.from_pretrained(folder)
        # RoBERTa's kind counts positions from its padding token's id, among texts that may hold that token.
        self.first_position = config.pad_token_id + 1 if "roberta" in config.model_type else None
        if self.first_position is None:
            config.pad_token_id = 50256
        self.pad, config.num_labels = config.pad_token_id, 2
        if hasattr(config, "hidden_dropout_prob"):
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
        state = {name: value.clone() for name, value in (backbone_state(source) | head_state(source)).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not missing and not unexpected, (missing, unexpected)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable == "all" or self._behind(name, source, trainable))
        if trainable == "lora":
            targets = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if self._adapted(n, m, source)})
            lora = LoraConfig(
                r=LORA.rank,
                lora_alpha=LORA.alpha,
                target_modules=targets,
                modules_to_save=["classifier" if hasattr(model, "classifier") else "score"],
                exclude_modules=".*classifier.*",
            )
            model = get_peft_model(model, lora)
        self.model: Any = model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.1, fused=True)
        self.autocast = multiplies_bf16(torch.device("cpu"))

    @staticmethod
    def _behind(name: str, source: Any, trainable: str) -> bool:
        """Whether a parameter is trained with the last block, or with the head alone."""
        behind = name.startswith(("score.", "classifier."))
        if trainable != "last_block":
            return behind
        return behind or f".{source.config.n_layers - 1}." in name or name == "model.norm.weight"

    @staticmethod
    def _adapted(name: str, module: torch.nn.Module, source: Any) -> bool:
        return isinstance(module, torch.nn.Linear) and not name.startswith(("score", "classifier"))

    def step(self, index: int) -> float:
        """Trains on a batch; returns its loss."""
        ids = self.batches[index]
        rows = [self.rows[i] for i in ids]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        positions: dict[str, torch.Tensor] = {}
        if self.first_position is not None:
            positions["position_ids"] = self.first_position + torch.arange(padded.shape[1]).expand_as(padded)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = self.model(input_ids=padded, attention_mask=mask, **positions).logits.float()
        loss = F.cross_entropy(logits, self.labels[ids])
        loss.backward()
        self.optimizer.step()
        return loss.item()


def timed(side: Any, index: int) -> tuple[float, float]:
    """Seconds of a step, and its loss."""
    begun = time.perf_counter()
    loss = side.step(index)
    return time.perf_counter() - begun, loss


def compare(name: str, data: str, trainable: str, rounds: int) -> dict[str, Any]:
    """Medians of both sides' steps, in turns."""
    with tempfile.TemporaryDirectory() as at:
        folder = folder_of(name, Path(at))
        ours = Ours(folder, data, trainable)
        theirs = Theirs(folder, ours, trainable)
        (_, mine), (_, other) = timed(ours, 0), timed(theirs, 0)
        assert abs(mine - other) < (0.1 if theirs.autocast else 1e-3), (mine, other)
        seconds: tuple[list[float], list[float]] = ([], [])
        for index in range(1, rounds + 1):
            for side, times in zip((ours, theirs), seconds, strict=True):
                times.append(timed(side, index)[0])
    medians = [statistics.median(times) for times in seconds]
    return {"ours": medians[0], "theirs": medians[1], "ratio": medians[1] / medians[0], "autocast": theirs.autocast}


def peak(name: str, data: str, trainable: str, side: str) -> int:
    """Bytes that model, optimizer and steps of one side take at most, after the first two steps; in this process."""
    import peft  # noqa: F401, imported before measuring
    import transformers  # noqa: F401

    with tempfile.TemporaryDirectory() as at:
        folder = folder_of(name, Path(at))
        before = resident("RssAnon")
        ours = Ours(folder, data, trainable)
        made: Any = ours
        if side == "theirs":
            made = Theirs(folder, ours, trainable)
            del ours.trainer
        for index in range(2):
            made.step(index)
        Path("/proc/self/clear_refs").write_text("5")
        for index in range(2, 5):
            made.step(index)
        return resident("VmHWM") - resident("RssFile") - before


def peaks(name: str, data: str, trainable: str) -> dict[str, int]:
    """Peak memory of each side, in a process of its own."""
    found = {}
    for side in ("ours", "theirs"):
        command = [sys.executable, __file__, "-", "--peak", name, data, trainable, side]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[f"{side}_peak"] = int(printed.splitlines()[-1])
    return found


def whole(name: str, data: str, epochs: int) -> dict[str, float]:
    """Seconds of training the last block for some epochs with kept rows, text for text against their steps."""
    import pyllmclf

    with tempfile.TemporaryDirectory() as at:
        folder = folder_of(name, Path(at))
        texts, labels = texts_of(data)
        settings: dict[str, Any] = {
            "weights": "random", "validation": False, "test": False, "trainable": "last_block", "epochs": epochs,
            "batch_size": BATCH_SIZE, "learning_rate": RATE, "max_length": SETS[data][1], "scheduler": "constant",
            "warmup_ratio": 0.0, "dropout": 0.0, "baselines": "off", "progress": False,
        }  # fmt: skip
        begun = time.perf_counter()
        pyllmclf.finetune(folder, (texts, labels), **settings)
        return {"seconds": time.perf_counter() - begun, "steps": epochs * -(-len(texts) // BATCH_SIZE)}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| model | texts | trained | step | Hugging Face | ratio | memory | whole training |", "|---" * 8 + "|"]
    for row in rows:
        memory = f"{row['ours_peak'] / row['theirs_peak']:.2f}" if row.get("theirs_peak") else ""
        done = f"{row['whole_ratio']:.1f} x" if row.get("whole_ratio") else ""
        lines.append(
            f"| {row['model']} | {row['data']} | {row['trainable']} | {row['ours']:.3f} s | {row['theirs']:.3f} s | "
            f"{row['ratio']:.2f} x | {memory} | {done} |"
        )
    return "\n".join(lines)


def combinations(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    for name in arguments.models:
        for data in arguments.data:
            for trainable in arguments.trainable:
                yield name, data, trainable


def measured(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """A line of the results, with what is asked for and not there yet."""
    key = row["model"], row["data"], row["trainable"]
    if "ratio" not in row:
        row = row | compare(*key, arguments.rounds)
        row |= {
            "layers": LAYERS.get(key[0]),
            "rounds": arguments.rounds,
            "threads": torch.get_num_threads(),
            "processor": processor(),
            "torch": torch.__version__,
            "date": date.today().isoformat(),
        }
    if not (arguments.no_memory or "ours_peak" in row):
        row = row | peaks(*key)
    if not (key[2] != "last_block" or arguments.no_whole or "whole" in row):
        done = whole(key[0], key[1], EPOCHS)
        row = row | {"whole": done["seconds"], "whole_ratio": row["theirs"] * done["steps"] / done["seconds"]}
    return row


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("results", type=Path)
    made.add_argument("--models", nargs="+", default=["smollm2-135m", "qwen3-0.6b", "xlm-roberta-base"])
    made.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    made.add_argument("--trainable", nargs="+", default=["last_block", "lora", "all"])
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--no-memory", action="store_true")
    made.add_argument("--no-whole", action="store_true")
    made.add_argument("--table", action="store_true")
    made.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.peak:
        with contextlib.redirect_stdout(sys.stderr):
            found = peak(*arguments.peak)
        print(found)
        return 0
    path = arguments.results
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["model"], row["data"], row["trainable"]): row for row in rows}
    if arguments.table:
        print(table(list(done.values())))
        return 0
    for key in combinations(arguments):
        found = done.get(key, dict(zip(("model", "data", "trainable"), key, strict=True)))
        row = measured(found, arguments)
        if row != found:
            done[key] = row
            path.write_text("".join(json.dumps(row) + "\n" for row in done.values()))
            print(table([row]).splitlines()[-1], file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
