"""The Open Inference Protocol (KServe v2) over HTTP, with Triton's extension for binary tensors."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from ...printable import shown
from ...text_pair import Text, TextPair
from ...version import __version__
from ..errors import RequestError
from ..http import Json, body_of, parsed, until_gone
from ..service import Answer, Service

HEADER = "inference-header-content-length"
INPUT = "text"
ABSTAINED = "abstained"
# Those of a request that names none; a classifier that abstains adds why.
OUTPUTS = ("label", "probabilities", "logits")


async def live(request: Request, service: Service) -> Json:
    """Whether the server runs."""
    return Json({"live": True})


async def ready(request: Request, service: Service) -> Json:
    """Whether requests are welcome."""
    return Json({"ready": service.ready}, 200 if service.ready else 503)


async def server(request: Request, service: Service) -> Json:
    """Name, version and extensions of the server."""
    return Json({"name": "pyllmclf", "version": __version__, "extensions": ["binary_tensor_data"]})


async def model(request: Request, service: Service) -> Json:
    """Inputs and outputs of a model."""
    served = service.find(request.path_params["name"])
    classes, abstains = len(served.classifier.classes_), served.classifier.decisions.abstains
    return Json(
        {
            "name": served.name,
            "versions": ["1"],
            "platform": "pyllmclf",
            "inputs": [
                {"name": INPUT, "datatype": "BYTES", "shape": [-1, 2] if served.classifier.state.has_pairs else [-1]}
            ],
            "outputs": [
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP64", "shape": [-1, classes]},
                {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
                *([{"name": ABSTAINED, "datatype": "BYTES", "shape": [-1]}] if abstains else []),
            ],
        }
    )


async def model_ready(request: Request, service: Service) -> Json:
    """Whether a model answers."""
    served = service.find(request.path_params["name"])
    return Json({"name": served.name, "ready": service.ready}, 200 if service.ready else 503)


async def infer(request: Request, service: Service) -> Response:
    """Labels, probabilities and logits of the texts of an input of type BYTES."""
    options = service.options
    body = await body_of(request, options.max_body_bytes, options.body_timeout)
    size = _header_size(request.headers.get(HEADER), body)
    content = parsed(body if size is None else body[:size])
    served = service.find(request.path_params["name"])
    texts = _texts(content, b"" if size is None else body[size:], pairs=served.classifier.state.has_pairs)
    wanted = _wanted_outputs(content, abstains=served.classifier.decisions.abstains)
    answer = await service.classify(served.name, texts, abandoned=until_gone(request))
    facts = {"model": served.name, "texts": len(texts), "tokens": int(answer.tokens.sum())}
    request.scope["pyllmclf"].update(facts)
    outputs, blobs = [], list[bytes]()
    for name, binary in wanted.items():
        output, blob = _output(answer, name, binary)
        outputs.append(output)
        blobs += [blob] if binary else []
    head: dict[str, Any] = {"model_name": served.name, "model_version": "1", "outputs": outputs}
    if isinstance(content.get("id"), str):
        head["id"] = content["id"]
    if not blobs:
        return Json(head)
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {HEADER: str(len(text))}
    return Response(text + b"".join(blobs), media_type="application/octet-stream", headers=headers)


def _header_size(value: str | None, body: bytes) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) <= len(body)):
        raise RequestError(400, f"{HEADER}: {value[:20]} is not the size of the body's JSON part.")
    return int(value)


def _texts(content: dict[str, Any], binary: bytes, *, pairs: bool) -> list[Text]:
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RequestError(400, "inputs must be a list of one tensor of type BYTES, the texts.")
    tensor = inputs[0]
    if tensor.get("datatype") != "BYTES":
        raise RequestError(400, f"the input's datatype must be BYTES, not {shown(tensor.get('datatype'))}.")
    shape = tensor.get("shape")
    shapes = "[pairs, 2], since the model reads pairs of texts" if pairs else "[texts] or [texts, 1]"
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) not in (1, 2):
        raise RequestError(400, f"the input's shape must be {shapes}.")
    if shape[1:] != [2] if pairs else len(shape) == 2 and shape[1] != 1:
        raise RequestError(400, f"the input's shape must be {shapes}, not {shown(shape)}.")
    size = _parameters(tensor).get("binary_data_size")
    texts = _flat(tensor.get("data")) if size is None else list(_strings(binary, size))
    if len(texts) != prod(shape):
        raise RequestError(400, f"the input has {len(texts)} texts, and its shape is {shown(shape)}.")
    return [TextPair(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)] if pairs else list(texts)


def _parameters(owner: dict[str, Any]) -> dict[str, Any]:
    parameters = owner.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError(400, "parameters must be an object.")
    return parameters


def _flat(data: Any) -> list[str]:
    """Texts of a tensor's data, which may be nested as its shape is."""
    if not isinstance(data, list):
        raise RequestError(400, "the input's data must be a list of texts.")
    nested = bool(data) and all(isinstance(row, list) for row in data)
    flat = [entry for row in data for entry in row] if nested else data
    if not all(isinstance(text, str) for text in flat):
        raise RequestError(400, "the input's data must be a list of texts.")
    return flat


def _strings(binary: bytes, size: Any) -> Iterator[str]:
    """Texts in Triton's binary format: for each, its number of bytes as a little-endian uint32, and its bytes."""
    if type(size) is not int or size != len(binary):
        raise RequestError(400, f"binary_data_size is {shown(size)}; {len(binary)} bytes follow the JSON part.")
    place = 0
    while place < size:
        end = place + 4 + int.from_bytes(binary[place : place + 4], "little")
        if place + 4 > size or end > size:
            raise RequestError(400, "a text of the binary input ends after the body.")
        try:
            yield binary[place + 4 : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(400, f"a text of the binary input is not UTF-8 ({error.reason}).") from error
        place = end


def _wanted_outputs(content: dict[str, Any], *, abstains: bool) -> dict[str, bool]:
    """Names of the outputs that a request wants, and whether each is binary."""
    names = (*OUTPUTS, ABSTAINED)
    default = _parameters(content).get("binary_data_output") is True
    listed = content.get("outputs")
    if not listed:
        return dict.fromkeys(names if abstains else OUTPUTS, default)
    wanted = {}
    for output in listed if isinstance(listed, list) else [None]:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(output, dict) or name not in names:
            raise RequestError(400, f"there is no output {shown(name)}; there is {', '.join(names)}.")
        wanted[name] = bool(_parameters(output).get("binary_data", default))
    return wanted


def _output(answer: Answer, name: str, binary: bool) -> tuple[dict[str, Any], bytes]:
    """One output as JSON, and its binary data."""
    if name in ("label", ABSTAINED):
        separator = answer.served.classifier.state.label_separator or ","
        labels = [label if isinstance(label, str) else separator.join(label or ()) for label in answer.labels]
        labels = labels if name == "label" else [reason or "" for reason in answer.reasons]
        output: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(labels)]}
        encoded = [label.encode() for label in labels]
        blob = b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
        data: Any = labels
    else:
        values: np.ndarray = answer.probabilities if name == "probabilities" else answer.logits
        datatype = "FP64" if name == "probabilities" else "FP32"
        output = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        blob, data = np.ascontiguousarray(values).tobytes(), np.ascontiguousarray(values).ravel()
    if binary:
        return output | {"parameters": {"binary_data_size": len(blob)}}, blob
    return output | {"data": data}, b""
