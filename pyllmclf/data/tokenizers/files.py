"""The files of a tokenizer that ``transformers.AutoTokenizer`` reads."""

from __future__ import annotations

import itertools
import json
from typing import Any

from ...errors import ModelError

GPT2_END_OF_TEXT = "<|endoftext|>"


def tokenizer_files(
    tokenizer_json: str,
    pad_token: str,
    max_length: int,
    truncation_side: str = "right",
    special: dict[str, str] | None = None,
    *,
    splits_special_tokens: bool = True,
) -> dict[str, str]:
    """``tokenizer.json``, and a ``tokenizer_config.json`` that makes ``AutoTokenizer`` read it unchanged.

    Parameters
    ----------
    tokenizer_json : str
        Content of ``tokenizer.json``.
    pad_token : str
    max_length : int
        Number of tokens that transformers truncates a text to.
    truncation_side : {"right", "left"}
        Side of a longer text that loses tokens.
    special : dict of str to str, optional
        Configuration key of each special token, such as ``"cls_token"``, and its text. Without it, the padding token is
        the beginning, end and unknown token too, as in GPT-2.
    splits_special_tokens : bool
        As :attr:`pyllmclf.data.tokenizers.Tokenizer.splits_special_tokens`.

    Returns
    -------
    dict of str to str
        File name to content.
    """
    config: dict[str, Any] = {
        # The architectures' own classes rebuild normalizer and pre-tokenizer, which changes ids where these differ.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "truncation_side": truncation_side,
        "pad_token": pad_token,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": splits_special_tokens,
    }
    config |= special or dict.fromkeys(("bos_token", "eos_token", "unk_token"), pad_token)
    return {"tokenizer.json": tokenizer_json, "tokenizer_config.json": json.dumps(config, indent=2)}


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each of the 256 bytes (``bytes_to_unicode`` in OpenAI's encoder.py).

    A printable byte stands for itself; the others have the characters from U+0100 in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in alphabet]
    alphabet.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return alphabet


def byte_level_json(tokens: list[bytes]) -> str:
    """A ``tokenizer.json`` with the ids of a byte-pair encoding.

    Encoding a token with the lower ranks alone leaves two tokens: they are the merge that makes it.

    Parameters
    ----------
    tokens : list of bytes
        The tokens of the encoding in order of rank; every single byte is one of them.

    Returns
    -------
    str

    Raises
    ------
    ModelError
        If a token can't be merged from tokens of lower rank.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = byte_alphabet()
    ranks = {token: rank for rank, token in enumerate(tokens)}
    names = ["".join(alphabet[byte] for byte in token) for token in tokens]
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) > 1:
            left, right = _split_by_lower_ranks(token, rank, ranks)
            merges.append((names[ranks[left]], names[ranks[right]]))
    vocab = {name: rank for rank, name in enumerate(names)}
    vocab[GPT2_END_OF_TEXT] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(GPT2_END_OF_TEXT, normalized=False)])
    return tokenizer.to_str()


def _split_by_lower_ranks(token: bytes, limit: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that byte-pair encoding with the ranks below ``limit`` leaves of a token."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        pair_ranks = [ranks.get(a + b, limit) for a, b in itertools.pairwise(pieces)]
        best = min(range(len(pair_ranks)), key=pair_ranks.__getitem__)
        if pair_ranks[best] >= limit:
            raise ModelError(f"the encoding has no merge for its token {token!r}.")
        pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
    return pieces[0], pieces[1]
