"""Names that columns of texts and of labels usually have."""

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


def usual_label(names: Sequence[str], weight_column: str | None = None) -> int | None:
    """Place of the one column, other than that of the weights, that has a usual name of labels."""
    for row in LABEL_NAMES:
        candidates = [i for i, name in enumerate(names) if plain_name(name) in row and name != weight_column]
        if candidates:
            return candidates[0] if len(candidates) == 1 else None
    return None


def is_usual_name(name: str) -> bool:
    """Whether texts or labels usually have this name."""
    return any(plain_name(name) in row for row in (*TEXT_NAMES, *LABEL_NAMES))


def plain_name(name: str) -> str:
    """A name without case, white space and signs; as it is if it consists of them."""
    return re.sub(r"[\W_]+", "", name).casefold() or name
