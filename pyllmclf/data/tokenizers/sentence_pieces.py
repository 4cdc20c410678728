"""SentencePiece's model files: their pieces and normalizer, and a tokenizer of the ``tokenizers`` library from them.

A file is one message of Protocol Buffers (``sentencepiece_model.proto`` of google/sentencepiece). The few fields that a
Unigram model needs are read here, so that no other package is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from .added_tokens import with_flags
from .library import LibraryTokenizer

if TYPE_CHECKING:
    import tokenizers

# Numbers of the fields that are read: of the model, of a piece, of the trainer's and of the normalizer's settings.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 35, 40
_CHARACTER_MAP, _ADDS_PREFIX, _REMOVES_SPACES = 2, 3, 4
_UNIGRAM = 1
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

# Names of the files: fairseq's, and SentencePiece's own.
FAIRSEQ_FILE, SENTENCE_PIECE_FILE = "sentencepiece.bpe.model", "spm.model"
ADVICE = "save the tokenizer with transformers, which writes a tokenizer.json"


@dataclass(frozen=True)
class SentencePieces:
    """A Unigram model (Kudo 2018).

    Attributes
    ----------
    pieces : list of (str, float)
        Text and score of each piece, in the order of their ids.
    added : list of (str, bool)
        Pieces that a text is split at before anything else, and whether each is a special token.
    unknown_id : int
    character_map : bytes
        Compiled replacements of characters, which come before everything else; empty for none.
    """

    pieces: list[tuple[str, float]]
    added: list[tuple[str, bool]]
    unknown_id: int
    character_map: bytes


def read_sentence_pieces(path: Path) -> SentencePieces:
    """Reads a model file of SentencePiece.

    Raises
    ------
    ModelError
        If the file can't be read, or is of another kind than the tokenizers that are made of it.
    """
    pieces: list[tuple[str, float]] = []
    added: list[tuple[str, bool]] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == _PIECES:
                fields = dict(_fields(_message(value)))
                score = struct.unpack("<f", _message(fields[_SCORE]))[0] if _SCORE in fields else 0.0
                pieces.append((_message(fields[_TEXT]).decode(), score))
                if (kind := fields.get(_KIND, _NORMAL)) in (_CONTROL, _USER_DEFINED):
                    added.append((pieces[-1][0], kind == _CONTROL))
            elif number == _TRAINER:
                trainer |= {key: each for key, each in _fields(_message(value)) if isinstance(each, int)}
            elif number == _NORMALIZER:
                normalizer |= dict(_fields(_message(value)))
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise ModelError(f"{path}: not a model file of SentencePiece ({error}).") from error
    character_map = normalizer.get(_CHARACTER_MAP, b"")
    if not pieces or not isinstance(character_map, bytes):
        raise ModelError(f"{path}: not a model file of SentencePiece (it has no pieces).")
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or trainer.get(_BYTE_FALLBACK, 0):
        raise ModelError(f"{path}: only Unigram models without bytes for unknown characters are read; {ADVICE}.")
    if not (normalizer.get(_ADDS_PREFIX, 1) and normalizer.get(_REMOVES_SPACES, 1)):
        raise ModelError(f"{path}: models that keep extra spaces are not read; {ADVICE}.")
    return SentencePieces(pieces, added, trainer.get(_UNKNOWN_ID, 0), character_map)


def fairseq_tokenizer(
    folder: Path,
    config: dict[str, Any],
    *,
    first: Sequence[tuple[str, float]],
    skipped: int,
    special: Sequence[str],
    **rules: Any,
) -> LibraryTokenizer:
    """The tokenizer of a model that fairseq trained, from its ``sentencepiece.bpe.model``.

    fairseq puts tokens of its own before SentencePiece's, and ``<mask>`` behind them.

    Parameters
    ----------
    folder : Path
    config : dict
        Content of ``tokenizer_config.json``.
    first : sequence of (str, float)
        Texts and scores of fairseq's tokens, the fourth of which is the unknown token.
    skipped : int
        Number of SentencePiece's first pieces that they replace.
    special : sequence of str
        Special tokens beside ``<s>``, ``</s>``, ``<pad>``, ``<unk>`` and ``<mask>``.
    rules
        Other arguments of :class:`LibraryTokenizer`.

    Raises
    ------
    ModelError
        As :func:`read_sentence_pieces`.
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    model = read_sentence_pieces(folder / FAIRSEQ_FILE)
    vocabulary = [*first, *model.pieces[skipped:], ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    if model.character_map:
        tokenizer.normalizer = normalizers.Precompiled(model.character_map)
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    mask = AddedToken("<mask>", lstrip=True, normalized=False)
    tokenizer.add_tokens(_added_tokens(model))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", *special, mask])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return as_library_tokenizer(tokenizer, folder, config, **rules)


def bert_like_tokenizer(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    """The tokenizer of a ``spm.model`` with BERT's special tokens, of which ``[MASK]`` may be added.

    The tokens of a text are SentencePiece's own.

    Parameters
    ----------
    folder : Path
    config : dict
        Content of ``tokenizer_config.json``; ``do_lower_case`` and ``split_by_punct`` (default false) are read.
    rules
        Other arguments of :class:`LibraryTokenizer`.

    Raises
    ------
    ModelError
        As :func:`read_sentence_pieces`, and if a special token is missing.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    path = folder / SENTENCE_PIECE_FILE
    model = read_sentence_pieces(path)
    texts = {text for text, _ in model.pieces}
    if missing := [token for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]") if token not in texts]:
        raise ModelError(f"{path}: the vocabulary lacks {missing[0]}.")
    tokenizer = Tokenizer(models.Unigram(model.pieces, unk_id=model.unknown_id, byte_fallback=False))
    # White space as SentencePiece treats it: single spaces and none at the ends, then one before the text, and each of
    # them as the sign that pieces have.
    spaces = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A "), "")]
    signs = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.Replace(Regex(r"▁+\z"), "")]
    first: list[normalizers.Normalizer] = [normalizers.Lowercase()] if config.get("do_lower_case", False) else []
    if model.character_map:
        first.append(normalizers.Precompiled(model.character_map))
    tokenizer.normalizer = normalizers.Sequence([*first, *spaces, *signs])
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    punctuation = pre_tokenizers.Punctuation(behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [punctuation, words] if config.get("split_by_punct", False) else [words]
    )
    tokenizer.add_tokens(_added_tokens(model))
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    return as_library_tokenizer(tokenizer, folder, config, **rules)


def _added_tokens(model: SentencePieces) -> list[tokenizers.AddedToken]:
    from tokenizers import AddedToken

    return [AddedToken(text, normalized=False, special=special) for text, special in model.added]


def as_library_tokenizer(
    tokenizer: tokenizers.Tokenizer, folder: Path, config: dict[str, Any], **rules: Any
) -> LibraryTokenizer:
    """The tokenizer with the flags of the folder's own special tokens."""
    content = with_flags(tokenizer.to_str(), rules.get("added", ()))
    return LibraryTokenizer.from_json(content, config, str(folder), **rules)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an int, or the bytes of a string, message or floating number."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            number, position = _varint(message, position)
            yield tag >> 3, number
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if position + size > len(message):
            raise ValueError("the file ends within a field")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the position after it."""
    number = shift = 0
    while True:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("an integer has more than 64 bits")


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field has the wrong type")
    return value
