"""Tokenizers: text to token ids, by the libraries tiktoken and tokenizers.

``protocol`` holds what the engine needs of a tokenizer, ``gpt2`` and ``library`` the two implementations, ``loading``
makes a tokenizer from the files of a model folder or a checkpoint, ``files`` writes those that transformers reads,
``prompt`` puts a prompt before each text.
"""

from .files import GPT2_END_OF_TEXT, byte_alphabet, byte_level_json
from .gpt2 import TiktokenTokenizer
from .library import LibraryTokenizer
from .loading import (
    GPT2_BYTE_PAIRS,
    ROBERTA_BYTE_PAIRS,
    SAMPLE_TOKENIZER,
    WORDPIECE,
    load_tokenizer,
    restore_tokenizer,
    sample_tokenizer,
)
from .prompt import PromptedTokenizer, with_prompt
from .protocol import Tokenizer, Vocabulary, special_count

__all__ = [
    "GPT2_BYTE_PAIRS",
    "GPT2_END_OF_TEXT",
    "ROBERTA_BYTE_PAIRS",
    "SAMPLE_TOKENIZER",
    "WORDPIECE",
    "LibraryTokenizer",
    "PromptedTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "Vocabulary",
    "byte_alphabet",
    "byte_level_json",
    "load_tokenizer",
    "restore_tokenizer",
    "sample_tokenizer",
    "special_count",
    "with_prompt",
]
