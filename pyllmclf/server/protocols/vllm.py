"""vLLM's classification API: ``POST /classify`` and ``GET /v1/models``."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request

from ..http import Json, json_of, until_gone
from ..service import Answer, Service
from .fields import model_of, texts_of


async def classify(request: Request, service: Service) -> Json:
    """Labels and probabilities of one text or a list of texts; a classifier of pairs takes ``[[text, pair], ...]``."""
    content = await json_of(request, service)
    name = model_of(content)
    texts, _ = texts_of(content, "input", pairs=service.find(name).classifier.state.has_pairs)
    answer = await service.classify(name, texts, abandoned=until_gone(request))
    facts = request.scope["pyllmclf"]
    tokens = int(answer.tokens.sum())
    facts.update(model=answer.served.name, texts=len(texts), tokens=tokens)
    return Json(
        {
            "id": f"classify-{facts['request_id']}",
            "object": "list",
            "created": int(time.time()),
            "model": answer.served.name,
            "data": [_entry(answer, i) for i in range(len(texts))],
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        }
    )


def _entry(answer: Answer, i: int) -> dict[str, Any]:
    state, label, reason = answer.served.classifier.state, answer.labels[i], answer.reasons[i]
    several = state.label_separator is not None
    entry: dict[str, Any] = {
        "index": i,
        # vLLM's label may be null.
        "label": None if reason else answer.best[i] if several else label,
        "probs": answer.probabilities[i],
        "num_classes": len(answer.classes),
    }
    # Not vLLM's: which of several labels a text has, why it has no answer, and its label set.
    entry |= {"labels": label} if several else {}
    entry |= {"abstained": reason} if answer.served.classifier.decisions.abstains else {}
    return entry if answer.sets is None else entry | {"label_set": answer.sets[i]}


async def models(request: Request, service: Service) -> Json:
    """The models that requests may name."""
    return Json({"object": "list", "data": [_card(service, name) for name in service.catalog.served]})


def _card(service: Service, name: str) -> dict[str, Any]:
    served = service.catalog.served[name]
    state = served.classifier.state
    return {
        "id": name,
        "object": "model",
        "created": served.loaded,
        "owned_by": "pyllmclf",
        "max_model_len": state.layout.max_length,
        "classes": state.encoder.names,
        "several_labels": state.label_separator is not None,
        "reads_pairs": state.has_pairs,
        "decisions": served.classifier.decisions.lines(state.encoder.names),
        "model_type": state.model.config.model_type,
        "dtype": served.classifier.compute.dtype_name if state.int8 is None else "int8",
        "shares_layers_with": [
            other.name
            for other in service.catalog.served.values()
            if other.group is served.group and other is not served
        ],
    }
