"""Makes a tokenizer from the files of a model folder or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from .added_tokens import configured_tokens, read_tokenizer_config, with_flags
from .files import GPT2_END_OF_TEXT
from .gpt2 import TiktokenTokenizer
from .library import LibraryTokenizer
from .protocol import Tokenizer, Vocabulary

if TYPE_CHECKING:
    from tokenizers.implementations import ByteLevelBPETokenizer

SAMPLE_TOKENIZER = Path(__file__).parent.parent / "sample" / "tokenizer.json"
BYTE_PAIR_FILES = ("vocab.json", "merges.txt")


def load_tokenizer(
    folder: Path, vocabulary: Vocabulary | None = None, *, as_configured: bool = False
) -> LibraryTokenizer:
    """The tokenizer of a Hugging Face model folder.

    Parameters
    ----------
    folder : Path
    vocabulary : Vocabulary, optional
        Vocabulary format that the architecture may have in place of a ``tokenizer.json``.
    as_configured : bool
        Whether added and special tokens are those of the tokenizer's own configuration, and are found in texts as it
        says (``split_special_tokens``, default false, as in transformers). Otherwise names of special tokens inside a
        text are plain text.

    Raises
    ------
    ModelError
        If the folder has neither, or its tokenizer files are damaged.
    """
    config = read_tokenizer_config(folder)
    rules: dict[str, Any] = {}
    if as_configured:
        rules = {
            "splits_special_tokens": config.get("split_special_tokens", False) is True,
            "added": configured_tokens(folder, config),
        }
    if (path := folder / "tokenizer.json").is_file():
        return LibraryTokenizer.from_file(path, config, **rules)
    if vocabulary is not None and all((folder / name).is_file() for name in vocabulary.files):
        return vocabulary.read(folder, config, **rules)
    required = "tokenizer.json"
    if vocabulary is not None:
        first, *others = vocabulary.files
        required += f", or {first} with {' and '.join(others)}," if others else f" or {first}"
    raise ModelError(f"{folder}: there is no tokenizer; {required} is needed.")


def restore_tokenizer(
    kind: str, content: str, config: dict[str, Any], origin: str, *, splits_special_tokens: bool = True
) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Parameters
    ----------
    kind : {"tiktoken", "tokenizers"}
    content : str
        Content of ``tokenizer.json``.
    config : dict
        ``pad_token`` and its value; for ``"tokenizers"`` only.
    origin : str
        Path of ``tokenizer.json``, for error messages.
    splits_special_tokens : bool
        As :attr:`Tokenizer.splits_special_tokens`; for ``"tokenizers"`` only.

    Raises
    ------
    ModelError
        If the kind is unknown or the content is damaged.
    """
    if kind == "tiktoken":
        return TiktokenTokenizer.from_json(content, origin)
    if kind == "tokenizers":
        return LibraryTokenizer.from_json(content, config, origin, splits_special_tokens=splits_special_tokens)
    raise ModelError(f"{origin}: the tokenizer kind {kind!r} is unknown.")


def sample_tokenizer() -> LibraryTokenizer:
    """The tokenizer that the package ships, for tests and the demo."""
    return LibraryTokenizer.from_file(SAMPLE_TOKENIZER)


def _byte_pairs(folder: Path) -> ByteLevelBPETokenizer:
    """Byte-pair encoding from ``vocab.json`` and ``merges.txt``, without special tokens."""
    from tokenizers import ByteLevelBPETokenizer

    vocab, merges = (folder / name for name in BYTE_PAIR_FILES)
    try:
        return ByteLevelBPETokenizer.from_file(str(vocab), str(merges))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{vocab}, {merges.name}: not a byte-pair vocabulary ({error}).") from error


def _gpt2_byte_pairs(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    from tokenizers import AddedToken

    tokenizer = _byte_pairs(folder)
    tokenizer.add_special_tokens([AddedToken(GPT2_END_OF_TEXT, normalized=False)])
    content = with_flags(tokenizer.to_str(), rules.get("added", ()))
    return LibraryTokenizer.from_json(content, config, str(folder), **rules)


def _roberta_byte_pairs(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    from tokenizers import processors

    tokenizer = _byte_pairs(folder)
    ids = tokenizer.get_vocab()
    if not {"<s>", "</s>", "<pad>", "<unk>"} <= ids.keys():
        raise ModelError(f"{folder / BYTE_PAIR_FILES[0]}: the vocabulary lacks one of <s>, </s>, <pad> and <unk>.")
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    content = with_flags(tokenizer.to_str(), rules.get("added", ()))
    return LibraryTokenizer.from_json(content, config, str(folder), **rules)


def _wordpiece(folder: Path, config: dict[str, Any], **rules: Any) -> LibraryTokenizer:
    return LibraryTokenizer.from_wordpiece_vocab(folder / "vocab.txt", config, **rules)


WORDPIECE = Vocabulary(("vocab.txt",), _wordpiece)
GPT2_BYTE_PAIRS = Vocabulary(BYTE_PAIR_FILES, _gpt2_byte_pairs)
ROBERTA_BYTE_PAIRS = Vocabulary(BYTE_PAIR_FILES, _roberta_byte_pairs)
