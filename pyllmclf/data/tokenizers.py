"""Text to token ids, by the libraries that people trust for it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DataError, ModelError, PyllmclfError
from .json_text import parse_json

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

GPT2_END_OF_TEXT = "<|endoftext|>"
GPT2_VOCAB_SIZE = 50257
# The pattern of GPT-2's encoder, needed to rebuild tiktoken's encoding from a saved vocabulary.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

SAMPLE_TOKENIZER = Path(__file__).parent / "sample" / "tokenizer.json"

# What BERT and RoBERTa call their special tokens.
SPECIAL_TOKENS = (
    {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"},
    {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
)


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer.

    Attributes
    ----------
    kind : str
        ``"tiktoken"`` or ``"tokenizers"``.
    vocab_size : int
        One more than the largest token id.
    pad_token_id : int
        Used by the padded mode and written into configurations.
    prefix, suffix : list of int
        Special tokens before and after a text; the packer adds them.
    fingerprint : str
        Another one where a text may become other tokens: a hash of the vocabulary and rules, and the library's version.
    """

    kind: str
    vocab_size: int
    pad_token_id: int
    prefix: list[int]
    suffix: list[int]

    @property
    def fingerprint(self) -> str: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens. Names of special tokens inside a text are plain text."""

    def to_json(self) -> str:
        """Content of a ``tokenizer.json``."""

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        """Files that ``transformers.AutoTokenizer`` opens, name to content.

        ``truncation_side`` says where it cuts texts of more than ``max_length`` tokens.
        """


class TiktokenTokenizer:
    """GPT-2's byte-pair encoding by tiktoken."""

    kind = "tiktoken"

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self.vocab_size = GPT2_VOCAB_SIZE
        self.pad_token_id = GPT2_VOCAB_SIZE - 1
        self.prefix: list[int] = []
        self.suffix: list[int] = []

    @classmethod
    def gpt2(cls) -> TiktokenTokenizer:
        """The published encoding, from tiktoken's cache or its public home.

        Raises
        ------
        ModelError
            If it is neither cached nor to be fetched.
        """
        import tiktoken

        try:
            return cls(tiktoken.get_encoding("gpt2"))
        except Exception as error:  # requests' and tiktoken's own errors have no common base
            raise ModelError(
                f"GPT-2's vocabulary can't be loaded ({type(error).__name__}: {error}); "
                "connect to a network once, or point TIKTOKEN_CACHE_DIR at tiktoken's cache."
            ) from error

    @classmethod
    def from_json(cls, content: str, origin: str = "tokenizer.json") -> TiktokenTokenizer:
        """Rebuilds the encoding from the ``tokenizer.json`` of a checkpoint: a token's id is its rank.

        Raises
        ------
        ModelError
            If the content is not such a file, or its vocabulary not GPT-2's.
        """
        import tiktoken

        to_byte = {char: byte for byte, char in byte_alphabet().items()}
        try:
            vocab = dict(parse_json(content)["model"]["vocab"])
            vocab.pop(GPT2_END_OF_TEXT, None)
            ranks = {bytes(to_byte[c] for c in token): int(rank) for token, rank in vocab.items()}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ModelError(f"{origin}: not the tokenizer of a GPT-2 checkpoint ({error!r}).") from error
        if set(ranks.values()) != set(range(GPT2_VOCAB_SIZE - 1)) or any(bytes([b]) not in ranks for b in range(256)):
            raise ModelError(f"{origin}: the vocabulary is not GPT-2's.")
        return cls(tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        empty = [self.pad_token_id]  # a text without a token is read as the end-of-text token alone
        return [ids or empty for ids in self._encoding.encode_ordinary_batch(list(texts), num_threads=_threads())]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._encoding._pat_str.encode())
        for token in self._encoding.token_byte_values():  # sorted, and each with its id
            digest.update(b"%d %d " % (self._encoding.encode_single_token(token), len(token)) + token)
        return f"tiktoken {version('tiktoken')} {digest.hexdigest()}"

    def to_json(self) -> str:
        tokens = [self._encoding.decode_single_token_bytes(i) for i in range(GPT2_VOCAB_SIZE - 1)]
        return byte_level_json(tokens)

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        return tokenizer_files(self.to_json(), GPT2_END_OF_TEXT, max_length, truncation_side)


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Makes a :class:`ModelError` of what the tokenizers library raises: bare Exception, or its own panic."""
    try:
        yield
    except PyllmclfError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{what} ({error}).") from error


class LibraryTokenizer:
    """Any tokenizer that Hugging Face's ``tokenizers`` reads: WordPiece from vocab.txt, or a tokenizer.json."""

    kind = "tokenizers"

    def __init__(self, tokenizer: tokenizers.Tokenizer, config: dict[str, Any], origin: str) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        if not vocab:
            raise ModelError(f"{origin}: the tokenizer's vocabulary is empty.")
        self.vocab_size = max(vocab.values()) + 1
        named = next((tokens for tokens in SPECIAL_TOKENS if tokens["cls_token"] in vocab), {})
        self._special = {use: token for use, token in named.items() if token in vocab}
        pad = _token_text(config.get("pad_token")) or next(
            (t for t in ("[PAD]", "<pad>", GPT2_END_OF_TEXT) if t in vocab), None
        )
        if pad is None or pad not in vocab:
            raise ModelError(f"{origin}: the tokenizer has no padding token; name one in tokenizer_config.json.")
        self.pad_token = pad
        self.pad_token_id = vocab[pad]
        probe = tokenizer.encode("a")
        content = [i for i, special in enumerate(probe.special_tokens_mask) if not special]
        if not content:
            raise ModelError(f"{origin}: the tokenizer can't encode the letter 'a'.")
        self.prefix = probe.ids[: content[0]]
        self.suffix = probe.ids[content[-1] + 1 :]

    @classmethod
    def from_file(cls, path: str | Path, config: dict[str, Any] | None = None) -> LibraryTokenizer:
        """Reads a ``tokenizer.json``."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"), config, str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: can't be read ({error}).") from error

    @classmethod
    def from_json(cls, content: str, config: dict[str, Any] | None = None, origin: str = "") -> LibraryTokenizer:
        """Reads the content of a ``tokenizer.json``."""
        import tokenizers

        with _refused(f"{origin}: not a tokenizer that the tokenizers library reads"):
            return cls(tokenizers.Tokenizer.from_str(content), config or {}, origin)

    @classmethod
    def from_wordpiece_vocab(cls, path: str | Path, config: dict[str, Any] | None = None) -> LibraryTokenizer:
        """BERT's WordPiece from a vocab.txt; ``do_lower_case`` of the configuration decides about case (default yes).

        Raises
        ------
        ModelError
            If the file can't be read or lacks one of BERT's special tokens.
        """
        import tokenizers
        from tokenizers import BertWordPieceTokenizer

        config = config or {}
        with _refused(f"{path}: not a WordPiece vocabulary"):
            vocab = tokenizers.models.WordPiece.read_file(str(path))
        for token in ("[UNK]", "[SEP]", "[CLS]", "[PAD]"):
            if token not in vocab:
                raise ModelError(f"{path}: the vocabulary lacks {token}.")
        with _refused(f"{path}: not a tokenizer that the tokenizers library makes"):
            built = BertWordPieceTokenizer(
                vocab=vocab,
                lowercase=config.get("do_lower_case", True),
                strip_accents=config.get("strip_accents"),
                handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            )
            return cls(tokenizers.Tokenizer.from_str(built.to_str()), config, str(path))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with _refused("the tokenizer can't encode a text"):
            try:
                encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            except (UnicodeEncodeError, TypeError) as error:
                raise DataError(f"a text is no Unicode text: it holds a lone surrogate ({error}).") from error
        empty = [] if self.prefix or self.suffix else [self.pad_token_id]
        return [e.ids or empty for e in encoded]

    @cached_property
    def fingerprint(self) -> str:
        return f"tokenizers {version('tokenizers')} {hashlib.sha256(self.to_json().encode()).hexdigest()}"

    def to_json(self) -> str:
        return self._tokenizer.to_str()

    def files(self, max_length: int, truncation_side: str = "right") -> dict[str, str]:
        return tokenizer_files(self.to_json(), self.pad_token, max_length, truncation_side, self._special)


def special_count(tokenizer: Tokenizer) -> int:
    """How many special tokens the packer adds to a text."""
    return len(tokenizer.prefix) + len(tokenizer.suffix)


@dataclass(frozen=True)
class Vocabulary:
    """How a tokenizer is made of the files of first releases, which have no ``tokenizer.json``.

    Attributes
    ----------
    files : tuple of str
        Names of the files; all of them are needed.
    read : callable
        Takes the folder and the content of ``tokenizer_config.json``.
    """

    files: tuple[str, ...]
    read: Callable[[Path, dict[str, Any]], Tokenizer]


def load_tokenizer(folder: Path, vocabulary: Vocabulary | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face model folder.

    Parameters
    ----------
    folder : Path
    vocabulary : Vocabulary, optional
        What the architecture's first releases have in the place of a ``tokenizer.json``.

    Raises
    ------
    ModelError
        If the folder has neither.
    """
    config: dict[str, Any] = {}
    if (path := folder / "tokenizer_config.json").is_file():
        try:
            config = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: not valid JSON ({error}).") from error
        if not isinstance(config, dict):
            raise ModelError(f"{path}: not a JSON object.")
    if (path := folder / "tokenizer.json").is_file():
        return LibraryTokenizer.from_file(path, config)
    if vocabulary is not None and all((folder / name).is_file() for name in vocabulary.files):
        return vocabulary.read(folder, config)
    wanted = "tokenizer.json"
    if vocabulary is not None:
        first, *others = vocabulary.files
        wanted += f", or {first} with {' and '.join(others)}," if others else f" or {first}"
    raise ModelError(f"{folder}: there is no tokenizer; {wanted} is needed.")


def sample_tokenizer() -> LibraryTokenizer:
    """The tokenizer that ships with the package, for tests and the demo."""
    return LibraryTokenizer.from_file(SAMPLE_TOKENIZER)


def _byte_pairs(folder: Path) -> tokenizers.implementations.ByteLevelBPETokenizer:
    from tokenizers import ByteLevelBPETokenizer

    vocab, merges = (folder / name for name in BYTE_PAIR_FILES)
    try:
        return ByteLevelBPETokenizer.from_file(str(vocab), str(merges))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{vocab}, {merges.name}: not a byte-pair vocabulary ({error}).") from error


def _gpt2_byte_pairs(folder: Path, config: dict[str, Any]) -> LibraryTokenizer:
    from tokenizers import AddedToken

    built = _byte_pairs(folder)
    built.add_special_tokens([AddedToken(GPT2_END_OF_TEXT, normalized=False)])
    return LibraryTokenizer.from_json(built.to_str(), config, str(folder))


def _roberta_byte_pairs(folder: Path, config: dict[str, Any]) -> LibraryTokenizer:
    from tokenizers import processors

    built = _byte_pairs(folder)
    ids = built.get_vocab()
    if not {"<s>", "</s>", "<pad>", "<unk>"} <= ids.keys():
        raise ModelError(f"{folder / BYTE_PAIR_FILES[0]}: the vocabulary lacks one of <s>, </s>, <pad> and <unk>.")
    built.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>", "<mask>"])
    built.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    return LibraryTokenizer.from_json(built.to_str(), config, str(folder))


def _wordpiece(folder: Path, config: dict[str, Any]) -> LibraryTokenizer:
    return LibraryTokenizer.from_wordpiece_vocab(folder / "vocab.txt", config)


BYTE_PAIR_FILES = ("vocab.json", "merges.txt")
WORDPIECE = Vocabulary(("vocab.txt",), _wordpiece)
GPT2_BYTE_PAIRS = Vocabulary(BYTE_PAIR_FILES, _gpt2_byte_pairs)
ROBERTA_BYTE_PAIRS = Vocabulary(BYTE_PAIR_FILES, _roberta_byte_pairs)


def restore_tokenizer(kind: str, content: str, config: dict[str, Any], origin: str) -> Tokenizer:
    """The tokenizer that a checkpoint was made with."""
    if kind == "tiktoken":
        return TiktokenTokenizer.from_json(content, origin)
    if kind == "tokenizers":
        return LibraryTokenizer.from_json(content, config, origin)
    raise ModelError(f"{origin}: the tokenizer kind {kind!r} is unknown.")


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for the 256 bytes: itself where printable, else the next free one from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in alphabet]
    alphabet.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return alphabet


def byte_level_json(tokens: list[bytes]) -> str:
    """A ``tokenizer.json`` with the same ids as a byte-pair encoding given by its tokens in order of rank.

    The merge that made a token is found by encoding it with the lower ranks alone: two parts are left.
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
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= limit:
            raise ModelError(f"the encoding has no merge for its token {token!r}.")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def tokenizer_files(
    tokenizer_json: str,
    pad_token: str,
    max_length: int,
    truncation_side: str = "right",
    special: dict[str, str] | None = None,
) -> dict[str, str]:
    """``tokenizer.json`` and the configuration that makes ``AutoTokenizer`` read it as it stands.

    ``special`` names the special tokens by their use; without it, the padding token serves for all, as GPT-2's does.
    """
    config: dict[str, Any] = {
        # The architectures' own classes rebuild normalizer and pre-tokenizer, and give other ids where these differ.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "truncation_side": truncation_side,
        "pad_token": pad_token,
        "clean_up_tokenization_spaces": False,
    }
    config |= special or dict.fromkeys(("bos_token", "eos_token", "unk_token"), pad_token)
    return {"tokenizer.json": tokenizer_json, "tokenizer_config.json": json.dumps(config, indent=2)}


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _threads() -> int:
    import os

    return os.cpu_count() or 1
