"""Tokenizers: text to token ids, by the libraries tiktoken and tokenizers.

``protocol`` holds what the engine needs of a tokenizer, ``gpt2`` and ``library`` the two implementations, ``loading``
makes a tokenizer from the files of a model folder or a checkpoint, ``files`` writes those that transformers reads,
``prompt`` puts a prompt before each text, ``pairs`` has the special tokens of pairs of texts, ``sentence_pieces`` reads
SentencePiece's model files.
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
from .offsets import Offsets
from .pair_template import PairTemplate
from .pairs import PairTokenizer
from .prompt import PromptedTokenizer, with_prompt
from .protocol import Tokenizer, Vocabulary, special_count
from .sentence_pieces import (
    FAIRSEQ_FILE,
    SENTENCE_PIECE_FILE,
    as_library_tokenizer,
    bert_like_tokenizer,
    fairseq_tokenizer,
    read_sentence_pieces,
)

__all__ = [
    "FAIRSEQ_FILE",
    "GPT2_BYTE_PAIRS",
    "GPT2_END_OF_TEXT",
    "ROBERTA_BYTE_PAIRS",
    "SAMPLE_TOKENIZER",
    "SENTENCE_PIECE_FILE",
    "WORDPIECE",
    "LibraryTokenizer",
    "Offsets",
    "PairTemplate",
    "PairTokenizer",
    "PromptedTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "Vocabulary",
    "as_library_tokenizer",
    "bert_like_tokenizer",
    "byte_alphabet",
    "byte_level_json",
    "fairseq_tokenizer",
    "load_tokenizer",
    "read_sentence_pieces",
    "restore_tokenizer",
    "sample_tokenizer",
    "special_count",
    "with_prompt",
]
