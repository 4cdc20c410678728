"""Names that columns of texts, of pairs of texts and of labels usually have."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Usual names by precedence: a name of a later row counts only where no column has one of an earlier row. Within a row
# none is likelier than the others, and two of them are an error. Compared without case and signs: "Review Text" is
# reviewtext.
TEXT_NAMES = (
    ("text", "sentence", "message", "review", "content", "document"),
    (
        *("comment", "tweet", "body", "post", "utterance", "sms", "email", "mail"),
        *("texts", "sentences", "messages", "reviews", "documents", "comments", "tweets", "utterances"),
        *("reviewtext", "tweettext", "commenttext", "posttext", "messagetext", "commentbody", "reviewbody"),
        *("reviewcontent", "emailtext", "fulltext", "textcontent", "cleantext", "cleanedtext", "rawtext"),
    ),
    (
        *("description", "title", "headline", "abstract", "summary", "subject", "question", "query", "input", "prompt"),
        *("request", "statement", "claim", "phrase", "passage", "paragraph", "article", "string"),
    ),
)
# Names of the two columns of a pair of texts, the first text's first.
PAIR_NAMES = (
    ("text", "textpair"), ("text", "pair"), ("text", "text2"), ("text1", "text2"), ("texta", "textb"),
    ("firsttext", "secondtext"), ("sentence1", "sentence2"), ("sentencea", "sentenceb"), ("sentence", "sentence2"),
    ("sentence", "sentencepair"), ("sent1", "sent2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("question", "sentence"), ("question", "answer"), ("question", "passage"), ("question", "context"),
    ("question", "paragraph"), ("query", "passage"), ("query", "document"), ("query", "doc"), ("query", "text"),
    ("query", "answer"), ("claim", "evidence"), ("string1", "string2"), ("phrase1", "phrase2"), ("title1", "title2"),
    ("description1", "description2"), ("tweet1", "tweet2"), ("prompt", "response"), ("ticket", "reply"),
)  # fmt: skip
LABEL_NAMES = (
    ("label", "labels", "class", "category", "target"),
    (
        *("sentiment", "intent", "rating", "y", "emotion", "stars", "polarity", "topic", "genre", "stance"),
        *("classes", "categories", "targets", "labelname", "labeltext", "classname", "categoryname", "classlabel"),
        *("sentiments", "intents", "emotions", "topics", "intentname", "sentimentlabel", "airlinesentiment"),
        *("goldlabel", "labelid", "classid", "categoryid"),
    ),
    ("tag", "tags", "score", "type", "output", "group", "outcome", "answer", "result", "language", "lang"),
)


# Names of columns that number or name rows; that of an index that pandas has written is empty.
ID_NAMES = {"", "id", "ids", "idx", "index", "key", "guid", "uid", "uuid", "rowid", "pairid", "number", "unnamed0"}


def usual_label(names: Sequence[str], weight_column: str | None = None) -> int | None:
    """Place of the one column, other than that of the weights, that has a usual name of labels."""
    for row in LABEL_NAMES:
        candidates = [i for i, name in enumerate(names) if plain_name(name) in row and name != weight_column]
        if candidates:
            return candidates[0] if len(candidates) == 1 else None
    return None


def usual_pair(
    names: Sequence[str], excluded: Sequence[int | None] = (), *, text: int | None = None, pair: int | None = None
) -> tuple[int, int] | None:
    """Places of the two columns with the usual names of a pair; ``None`` unless exactly two columns are such.

    Parameters
    ----------
    names : sequence of str
        Names of all columns.
    excluded : sequence of int or None
        Columns that are neither of them.
    text, pair : int, optional
        The column of the first text, or of the second one, where it is known.
    """
    plain = [(i, plain_name(name)) for i, name in enumerate(names) if i not in excluded]
    firsts = [(i, name) for i, name in plain if text in (None, i)]
    seconds = [(i, name) for i, name in plain if pair in (None, i)]
    found = [(i, j) for i, first in firsts for j, second in seconds if (first, second) in PAIR_NAMES]
    return found[0] if len(found) == 1 else None


def is_usual_name(name: str) -> bool:
    """Whether texts or labels usually have this name."""
    return any(plain_name(name) in row for row in (*TEXT_NAMES, *LABEL_NAMES))


def is_usual_other(name: str) -> bool:
    """Whether a column of this name usually holds labels, or numbers or names of rows."""
    plain = plain_name(name)
    is_id = plain in ID_NAMES or re.search(r"[\W_]id$", name.casefold()) is not None
    return is_id or any(plain in row for row in LABEL_NAMES)


def plain_name(name: str) -> str:
    """A name without case, white space and signs; as it is if it consists of them."""
    return re.sub(r"[\W_]+", "", name).casefold() or name
