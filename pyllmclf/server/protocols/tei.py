"""The classification API of Hugging Face's text-embeddings-inference: ``POST /predict``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from ...text_pair import Text
from ..errors import RequestError
from ..http import Json, json_of, until_gone
from ..service import Answer, Service
from .fields import flag_of, model_of, texts_of


async def predict(request: Request, service: Service) -> Json:
    """The classes of a text with their scores, highest first; a list of these for ``[[text], [text], ...]``.

    A classifier of pairs takes ``[text, pair]`` or ``[[text, pair], ...]``.
    """
    content = await json_of(request, service)
    name = model_of(content)
    pairs = service.find(name).classifier.state.has_pairs
    texts, single = _pairs(content) if pairs else _inputs(content)
    raw, truncate = flag_of(content, "raw_scores"), flag_of(content, "truncate")
    answer = await service.classify(name, texts, truncate=truncate, abandoned=until_gone(request))
    facts = {"model": answer.served.name, "texts": len(texts), "tokens": int(answer.tokens.sum())}
    request.scope["pyllmclf"].update(facts)
    found = [_scores(answer, i, raw) for i in range(len(texts))]
    return Json(found[0] if single else found)


def _pairs(content: dict[str, Any]) -> tuple[list[Text], bool]:
    value = content.get("inputs")
    single = isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)
    return texts_of({"inputs": [value]} if single else content, "inputs", pairs=True)[0], single


def _inputs(content: dict[str, Any]) -> tuple[list[Text], bool]:
    value = content.get("inputs")
    if not isinstance(value, list):
        return texts_of(content, "inputs")
    if not value:
        raise RequestError(400, "inputs is empty; it is a text, or a list of lists of one text each.")
    if isinstance(value[0], str):  # not a batch: two texts are a pair
        if len(value) > 1:
            raise RequestError(
                400,
                "inputs with several texts are a pair, and this model reads single texts; a batch is [[text], [text]].",
            )
        return texts_of(content, "inputs")[0], True
    texts = list[Text]()
    for i, entry in enumerate(value):
        if not isinstance(entry, list) or len(entry) != 1 or not isinstance(entry[0], str):
            raise RequestError(400, f"inputs[{i}] must be a list of one text.")
        texts.append(entry[0])
    return texts, False


def _scores(answer: Answer, i: int, raw: bool) -> list[dict[str, Any]]:
    scores = (answer.logits if raw else answer.probabilities)[i]
    order = (-scores).argsort(kind="stable")
    found = [{"score": scores[k], "label": answer.classes[k]} for k in order]
    if answer.reasons[i] is not None:  # not TEI's, whose answer is scores alone
        found[0]["abstained"] = answer.reasons[i]
    return found
