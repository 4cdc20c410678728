"""Makes ``tokenizer.json`` from the messages: ``python -m pyllmclf.data.sample.build_tokenizer``."""

import csv
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FOLDER = Path(__file__).parent
VOCAB_SIZE = 1536


def build() -> str:
    """Content of the tokenizer: byte-level BPE of lower-cased text, ``<|endoftext|>`` last."""
    with (FOLDER / "messages.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer.to_str()


if __name__ == "__main__":
    (FOLDER / "tokenizer.json").write_text(build(), encoding="utf-8")
