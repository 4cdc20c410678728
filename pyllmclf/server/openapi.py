"""The OpenAPI document of a server."""

from __future__ import annotations

from typing import Any

from ..version import __version__

PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
NUMBERS = {"type": "array", "items": {"type": "number"}}
STRINGS = {"type": "array", "items": {"type": "string"}}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    """The schema of an object; ``required`` names fields, separated by spaces."""
    return {"type": "object", "required": required.split(), "properties": properties}


ERROR = _object(
    "error",
    error={
        "oneOf": [
            {"type": "string"},
            _object("message type code", message={"type": "string"}, type={"type": "string"}, code={"type": "integer"}),
        ]
    },
    error_type={"type": "string"},
)
# Pairs are for classifiers of pairs of texts.
TEXTS = {"oneOf": [{"type": "string"}, STRINGS, {"type": "array", "items": PAIR, "minItems": 1}]}
CLASSIFY = _object("input", model={"type": "string"}, input=TEXTS)
CLASSIFIED = _object(
    "id object created model data usage",
    id={"type": "string"},
    object={"const": "list"},
    created={"type": "integer"},
    model={"type": "string"},
    data={
        "type": "array",
        "items": _object(
            "index label probs num_classes",
            index={"type": "integer"},
            label={"type": ["string", "null"]},
            probs=NUMBERS,
            num_classes={"type": "integer"},
            labels={"type": ["array", "null"], "items": {"type": "string"}},
            abstained={"type": ["string", "null"]},
            label_set=STRINGS,
        ),
    },
    usage=_object("prompt_tokens total_tokens", prompt_tokens={"type": "integer"}, total_tokens={"type": "integer"}),
)
SCORES = {
    "type": "array",
    "items": _object("score label", score={"type": "number"}, label={"type": "string"}, abstained={"type": "string"}),
}
PREDICT = _object(
    "inputs",
    inputs={"oneOf": [{"type": "string"}, PAIR, {"type": "array", "items": {**STRINGS, "minItems": 1, "maxItems": 2}}]},
    model={"type": "string"},
    truncate={"type": "boolean", "default": False},
    raw_scores={"type": "boolean", "default": False},
)
MODELS = _object(
    "object data",
    object={"const": "list"},
    data={
        "type": "array",
        "items": _object(
            "id object created owned_by classes",
            id={"type": "string"},
            object={"const": "model"},
            created={"type": "integer"},
            owned_by={"type": "string"},
            max_model_len={"type": "integer"},
            classes=STRINGS,
            several_labels={"type": "boolean"},
            reads_pairs={"type": "boolean"},
            decisions=STRINGS,
            model_type={"type": "string"},
            dtype={"type": "string"},
            shares_layers_with=STRINGS,
        ),
    },
)
TENSOR = _object(
    "name shape datatype",
    name={"type": "string"},
    shape={"type": "array", "items": {"type": "integer"}},
    datatype={"enum": ["BYTES", "FP32", "FP64"]},
    data={"type": "array"},
    parameters={"type": "object"},
)
INFER = _object(
    "inputs", id={"type": "string"}, inputs={"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1}
)
INFERRED = _object(
    "model_name outputs",
    model_name={"type": "string"},
    model_version={"type": "string"},
    id={"type": "string"},
    outputs={"type": "array", "items": TENSOR},
)
ANYTHING = {"type": "object"}
STATUSES = {
    400: "The request can't be read.",
    401: "A key is needed.",
    404: "There is no such model.",
    408: "The body was not complete in time.",
    413: "Too many texts, or too large a body.",
    422: "A text can't be tokenized.",
    429: "Too many texts are waiting; Retry-After says when to come back.",
    500: "An unexpected error.",
    503: "The server shuts down.",
    504: "The deadline has passed.",
}
# Path: method, summary, schema of the body, schema of the answer.
OPERATIONS: dict[str, tuple[str, str, dict[str, Any] | None, dict[str, Any]]] = {
    "/classify": ("post", "Labels and probabilities of texts, as vLLM gives them.", CLASSIFY, CLASSIFIED),
    "/predict": (
        "post",
        "Scores of the classes, highest first, as text-embeddings-inference gives them.",
        PREDICT,
        {"oneOf": [SCORES, {"type": "array", "items": SCORES}]},
    ),
    "/v1/models": ("get", "The models that requests may name.", None, MODELS),
    "/v2": ("get", "Name and version of the server.", None, ANYTHING),
    "/v2/health/live": ("get", "Whether the server runs.", None, ANYTHING),
    "/v2/health/ready": ("get", "Whether requests are welcome.", None, ANYTHING),
    "/v2/models/{name}": ("get", "Inputs and outputs of a model.", None, ANYTHING),
    "/v2/models/{name}/ready": ("get", "Whether a model answers.", None, ANYTHING),
    "/v2/models/{name}/infer": (
        "post",
        "Outputs of a model, as the Open Inference Protocol gives them.",
        INFER,
        INFERRED,
    ),
    "/v2/models/{name}/versions/1": ("get", "The same.", None, ANYTHING),
    "/v2/models/{name}/versions/1/ready": ("get", "The same.", None, ANYTHING),
    "/v2/models/{name}/versions/1/infer": ("post", "The same.", INFER, INFERRED),
    "/health": ("get", "Whether requests are welcome.", None, ANYTHING),
    "/metrics": ("get", "Metrics for Prometheus.", None, {"type": "string"}),
}


def document(needs_key: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document; with a key, it says that requests need a bearer token."""
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "pyllmclf",
            "version": __version__,
            "summary": "Text classifiers over HTTP.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path: {method: _operation(path, *rest)} for path, (method, *rest) in OPERATIONS.items()},
        "components": {"schemas": {"Error": ERROR}},
    }
    if needs_key:
        content["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        content["security"] = [{"key": []}]
    return content


def _operation(path: str, summary: Any, body: Any, answer: Any) -> dict[str, Any]:
    kind = "text/plain" if path == "/metrics" else "application/json"
    failure = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": {kind: {"schema": answer}}}}
    statuses = STATUSES if body is not None else {}
    responses |= {str(status): {"description": text, "content": failure} for status, text in statuses.items()}
    operation: dict[str, Any] = {
        "operationId": path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "summary": summary,
        "responses": responses,
    }
    if "{name}" in path:
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation
