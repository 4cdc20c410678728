"""The server's protocols, errors, limits, metrics and documents, on the application without a network."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from served_classifiers import TEXTS, trained
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

import pyllmclf.server
from pyllmclf.classifier.classifier import Classifier
from pyllmclf.errors import UsageError
from pyllmclf.server.openapi import document
from pyllmclf.server.options import ServerOptions


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return trained(pooling="mean", max_length=48)


@pytest.fixture(scope="module")
def several() -> Classifier:
    """A classifier of texts with several labels."""
    import pyllmclf

    data = (TEXTS, [["late", "parcel"], ["money"], [], ["late"], ["parcel"], ["money", "late"]])
    options: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False, "validation": False}
    return pyllmclf.finetune("gpt2-nano", data, multi_label=True, **options).classifier


Connect = Callable[..., TestClient]


@pytest.fixture
def connect(classifier: Classifier) -> Iterator[Connect]:
    clients: list[TestClient] = []

    def start(classifiers: Any = None, **options: Any) -> TestClient:
        app = pyllmclf.server.app(classifiers or {"tickets": classifier}, **options)
        client = TestClient(app, raise_server_exceptions=False).__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__()


def error_of(response: Any) -> str:
    """The sentence of an error in any of the protocols."""
    error = response.json()["error"]
    sentence = error if isinstance(error, str) else error["message"]
    assert sentence.endswith(".") and sentence == sentence.strip()
    return sentence


# --- vLLM's protocol --------------------------------------------------------------------------------------------------


def test_classify_gives_labels_and_probabilities(connect: Connect, classifier: Classifier) -> None:
    answer = connect().post("/classify", json={"model": "tickets", "input": TEXTS})
    assert answer.status_code == 200
    content = answer.json()
    assert [entry["index"] for entry in content["data"]] == list(range(len(TEXTS)))
    assert [entry["label"] for entry in content["data"]] == classifier.predict(TEXTS)
    found = np.array([entry["probs"] for entry in content["data"]])
    np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=1e-6)
    assert {entry["num_classes"] for entry in content["data"]} == {len(classifier.classes_)}
    tokens = int(classifier.packer(TEXTS).tokens_by_text.sum())
    assert content["usage"]["prompt_tokens"] == content["usage"]["total_tokens"] == tokens
    assert content["model"] == "tickets" and content["object"] == "list"
    assert content["id"] == f"classify-{answer.headers['x-request-id']}"


def test_one_text_and_no_model_name(connect: Connect, classifier: Classifier) -> None:
    content = connect().post("/classify", json={"input": TEXTS[0]}).json()
    assert [entry["label"] for entry in content["data"]] == [classifier.predict(TEXTS[0])]


def test_no_text_gives_no_entry(connect: Connect) -> None:
    assert connect().post("/classify", json={"input": []}).json()["data"] == []


def test_several_labels(connect: Connect, several: Classifier) -> None:
    content = connect({"topics": several}).post("/classify", json={"input": TEXTS}).json()
    assert [entry["labels"] for entry in content["data"]] == several.predict(TEXTS)
    names = several.state.encoder.names
    best = [names[i] for i in several.predict_proba(TEXTS).argmax(axis=1)]
    assert [entry["label"] for entry in content["data"]] == best


def test_labels_that_are_numbers_are_texts(connect: Connect) -> None:
    import pyllmclf

    options: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False, "validation": False}
    numbered = pyllmclf.finetune("gpt2-nano", (TEXTS, [1, 2, 3, 1, 2, 3]), **options).classifier
    content = connect(numbered).post("/classify", json={"input": TEXTS[0]}).json()
    assert content["data"][0]["label"] == str(numbered.predict(TEXTS[0]))


def test_models_are_listed(connect: Connect, classifier: Classifier, several: Classifier) -> None:
    client = connect({"tickets": classifier, "topics": several})
    cards = client.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["tickets", "topics"]
    assert cards[0]["classes"] == classifier.state.encoder.names
    assert [card["several_labels"] for card in cards] == [False, True]


# --- text-embeddings-inference's protocol -----------------------------------------------------------------------------


def test_predict_sorts_the_classes(connect: Connect, classifier: Classifier) -> None:
    client = connect()
    one = client.post("/predict", json={"inputs": TEXTS[0]}).json()
    assert one[0]["label"] == classifier.predict(TEXTS[0])
    scores = [entry["score"] for entry in one]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0)
    assert client.post("/predict", json={"inputs": [TEXTS[0]]}).json() == one
    batch = client.post("/predict", json={"inputs": [[text] for text in TEXTS], "raw_scores": True}).json()
    logits = classifier.logits(TEXTS)
    for entries, row in zip(batch, logits, strict=True):
        np.testing.assert_allclose([entry["score"] for entry in entries], np.sort(row)[::-1], atol=1e-5)


def test_predict_refuses_long_texts_unless_they_may_be_truncated(connect: Connect) -> None:
    client = connect()
    refused = client.post("/predict", json={"inputs": "word " * 200})
    assert refused.status_code == 413
    assert "truncate" in error_of(refused) and refused.json()["error_type"] == "Validation"
    assert client.post("/predict", json={"inputs": "word " * 200, "truncate": True}).status_code == 200


# --- the Open Inference Protocol --------------------------------------------------------------------------------------


def infer(client: TestClient, texts: list[str], **more: Any) -> Any:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return client.post("/v2/models/tickets/infer", json={"inputs": [tensor], **more})


def test_infer_gives_all_outputs(connect: Connect, classifier: Classifier) -> None:
    content = infer(connect(), TEXTS, id="42").json()
    outputs = {output["name"]: output for output in content["outputs"]}
    assert content["id"] == "42" and content["model_name"] == "tickets"
    assert outputs["label"]["data"] == classifier.predict(TEXTS)
    logits = np.array(outputs["logits"]["data"]).reshape(outputs["logits"]["shape"])
    np.testing.assert_allclose(logits, classifier.logits(TEXTS), atol=1e-5)


def test_infer_gives_the_outputs_that_are_named(connect: Connect) -> None:
    content = infer(connect(), TEXTS, outputs=[{"name": "probabilities"}]).json()
    assert [output["name"] for output in content["outputs"]] == ["probabilities"]


def test_health_and_metadata(connect: Connect) -> None:
    client = connect()
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2").json()["name"] == "pyllmclf"
    model = client.get("/v2/models/tickets").json()
    assert [each["name"] for each in model["outputs"]] == ["label", "probabilities", "logits"]
    assert client.get("/v2/models/tickets/ready").json()["ready"]
    assert client.get("/v2/models/none/ready").status_code == 404
    assert client.get("/v2/models/tickets/versions/1").json() == model
    assert client.get("/v2/models/tickets/versions/1/ready").status_code == 200
    assert client.post("/v2/models/tickets/versions/1/infer", json={"inputs": [TENSOR]}).status_code == 200
    assert client.get("/v2/models/tickets/versions/2").status_code == 404


# --- what is refused --------------------------------------------------------------------------------------------------

TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
INFER_PATH = "/v2/models/tickets/infer"
BAD: dict[str, tuple[str, Any, int, str]] = {
    "no body": ("/classify", b"", 400, "empty"),
    "wrong JSON": ("/classify", b"{'input': 1}", 400, "not JSON"),
    "truncated JSON": ("/classify", b'{"input": "a', 400, "not JSON"),
    "a JSON list": ("/classify", b"[1]", 400, "object, not list"),
    "not UTF-8": ("/classify", b'{"input": "\xff"}', 400, "not JSON"),
    "a lone surrogate": ("/classify", b'{"input": "\\ud800"}', 400, "not JSON"),
    "deep nesting": ("/classify", b'{"input":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "."),
    "no input": ("/classify", {"model": "tickets"}, 400, "'input' is missing"),
    "a number": ("/classify", {"input": 3}, 400, "not a number"),
    "a list of numbers": ("/classify", {"input": [1, 2]}, 400, "input[0] must be a text"),
    "null in a list": ("/classify", {"input": ["a", None]}, 400, "input[1] must be a text, not null"),
    "a model that isn't here": ("/classify", {"model": "gpt", "input": "a"}, 404, "there is 'tickets'"),
    "a model that is no name": ("/classify", {"model": 7, "input": "a"}, 400, "model must be a name"),
    "too many texts": ("/classify", {"input": ["a"] * 21}, 413, "21 texts are more than 20"),
    "too large a body": ("/classify", {"input": "a" * 5000}, 413, "more than 4,096 bytes"),
    "a pair": ("/predict", {"inputs": ["a", "b"]}, 400, "a batch is [[text], [text]]"),
    "pairs": ("/predict", {"inputs": [["a", "b"]]}, 400, "inputs[0] must be a list of one text"),
    "no inputs": ("/predict", {}, 400, "'inputs' is missing"),
    "an empty batch": ("/predict", {"inputs": []}, 400, "empty"),
    "a flag that is none": ("/predict", {"inputs": "a", "truncate": "yes"}, 400, "truncate must be true or false"),
    "no tensor": (INFER_PATH, {"inputs": []}, 400, "one tensor"),
    "another datatype": (INFER_PATH, {"inputs": [TENSOR | {"datatype": "FP32"}]}, 400, "BYTES"),
    "another shape": (INFER_PATH, {"inputs": [TENSOR | {"shape": [2]}]}, 400, "1 texts, and its shape is [2]"),
    "a shape of pairs": (INFER_PATH, {"inputs": [TENSOR | {"shape": [1, 2]}]}, 400, "[texts, 1]"),
    "a negative shape": (INFER_PATH, {"inputs": [TENSOR | {"shape": [-1]}]}, 400, "shape"),
    "data that is no list": (INFER_PATH, {"inputs": [TENSOR | {"data": "a"}]}, 400, "data must be a list"),
    "an output that isn't there": (INFER_PATH, {"inputs": [TENSOR], "outputs": [{"name": "x"}]}, 400, "no output 'x'"),
    "outputs that are no list": (INFER_PATH, {"inputs": [TENSOR], "outputs": {"a": 1}}, 400, "no output"),
    "rows of data and another value": (
        INFER_PATH,
        {"inputs": [TENSOR | {"shape": [2], "data": [["a"], 5]}]},
        400,
        "data",
    ),
    "a row of data that is a text": (
        INFER_PATH,
        {"inputs": [TENSOR | {"shape": [3], "data": [["a"], "bc"]}]},
        400,
        "data",
    ),
    "parameters that are no object": (INFER_PATH, {"inputs": [TENSOR | {"parameters": 3}]}, 400, "parameters"),
    "a model of a path that isn't here": ("/v2/models/x/infer", {"inputs": [TENSOR]}, 404, "no model 'x'"),
    "another path": ("/nothing", {}, 404, "/openapi.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_get_a_status_and_a_sentence(connect: Connect, case: str) -> None:
    path, body, status, words = BAD[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    client = connect(max_texts=20, max_body_bytes=4096 if case == "too large a body" else 1 << 20)
    answer = client.post(path, content=content)
    assert answer.status_code == status
    assert words in error_of(answer)
    assert client.get("/health").status_code == 200


def test_another_method(connect: Connect) -> None:
    answer = connect().get("/classify")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert "POST is" in error_of(answer)


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "a\x00b", "\u202e", "🙂" * 20, "é" * 3000, "\ufeff", "<|endoftext|>", "[PAD]", "\n"]
)
def test_odd_texts_are_classified(connect: Connect, classifier: Classifier, text: str) -> None:
    found = connect().post("/classify", json={"input": text}).json()["data"][0]
    assert found["label"] == classifier.predict(text)


def test_an_unexpected_error_is_logged_and_told_without_details(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    secret = RuntimeError("secret of the machine")
    monkeypatch.setattr("pyllmclf.server.batching.compute", lambda *_: (_ for _ in ()).throw(secret))
    with caplog.at_level(logging.ERROR, "pyllmclf.server"):
        answer = client.post("/classify", json={"input": "a"})
    assert answer.status_code == 500
    assert "secret" not in answer.text and answer.headers["x-request-id"] in error_of(answer)
    assert "secret of the machine" in caplog.text
    monkeypatch.undo()
    assert client.post("/classify", json={"input": "a"}).status_code == 200


def test_logits_that_are_not_finite(connect: Connect) -> None:
    broken = trained(pooling="mean")
    broken.state.model.head.weight.data.fill_(float("nan"))
    answer = connect(broken).post("/classify", json={"input": "a"})
    assert answer.status_code == 500 and "not finite" in error_of(answer)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events: a batch has begun; batches may end."""
    from pyllmclf.server import batching

    begun, go = threading.Event(), threading.Event()
    compute = batching.compute

    def waiting(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return compute(*arguments)

    monkeypatch.setattr(batching, "compute", waiting)
    yield begun, go
    go.set()


def post_in_thread(client: TestClient, text: str) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/classify", json={"input": text})))
    thread.start()
    return thread, answers


def test_a_full_queue_says_when_to_come_back(
    connect: Connect, blocked: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = blocked
    client = connect(max_queue=2, max_texts=2)
    running = post_in_thread(client, "running")
    assert begun.wait(30)
    queued = post_in_thread(client, "queued")
    while client.app.state.service.batcher.queued_texts < 1:  # type: ignore[attr-defined]
        time.sleep(0.005)
    answer = client.post("/classify", json={"input": ["a", "b"]})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "too many texts" in error_of(answer)
    go.set()
    for thread, answers in (running, queued):
        thread.join(30)
        assert answers[0].status_code == 200


def test_a_deadline(connect: Connect, blocked: tuple[threading.Event, threading.Event]) -> None:
    client = connect(deadline=0.05)
    answer = client.post("/classify", json={"input": "a"})
    assert answer.status_code == 504 and "0.05 s" in error_of(answer)


def test_a_key_is_needed(connect: Connect) -> None:
    client = connect(api_key="s3cret")
    for header in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "s3cret"},
        {"Authorization": "Bearer s3cret "},
    ):
        answer = client.post("/classify", json={"input": "a"}, headers=header)
        assert answer.status_code == 401 and "key" in error_of(answer)
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/metrics", "/openapi.json", "/v2/models/tickets", "/nothing"):
        assert client.get(path).status_code == 401
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    right = {"Authorization": "Bearer s3cret"}
    assert client.post("/classify", json={"input": "a"}, headers=right).status_code == 200


def test_no_web_page_may_ask_unless_its_origin_is_named(connect: Connect) -> None:
    origin = {"Origin": "https://example.org"}
    asks = origin | {"Access-Control-Request-Method": "POST"}
    closed = connect()
    assert "access-control-allow-origin" not in closed.get("/v1/models", headers=origin).headers
    assert "access-control-allow-origin" not in closed.options("/classify", headers=asks).headers
    opened = connect(cors_origins=("https://example.org",), api_key="k")
    assert opened.options("/classify", headers=asks).headers["access-control-allow-origin"] == "https://example.org"
    other = opened.options("/classify", headers=asks | {"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in other.headers


def test_names_of_a_local_server(connect: Connect) -> None:
    local = connect(allowed_hosts=("127.0.0.1", "texts.example"))
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7", "texts.example:1"):
        assert local.get("/health", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil.example"):
        answer = local.post("/classify", json={"input": "a"}, headers={"Host": host})
        assert answer.status_code == 421 and "--allowed-host" in error_of(answer)
    # With a key, no page of another site can ask.
    keyed = connect(allowed_hosts=("127.0.0.1",), api_key="k")
    assert keyed.get("/health", headers={"Host": "evil.example"}).status_code == 200


def test_forms_of_other_sites_are_refused(connect: Connect) -> None:
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}
    answer = connect().post("/classify", json={"input": "a"}, headers=cross)
    assert answer.status_code == 403 and "--cors-origin" in error_of(answer)
    opened = connect(cors_origins=("https://example.org",))
    assert opened.post("/classify", json={"input": "a"}, headers=cross).status_code == 200
    for site in ("same-origin", "none"):
        same = {"Sec-Fetch-Site": site}
        assert connect().post("/classify", json={"input": "a"}, headers=same).status_code == 200


def test_many_texts_and_classes_take_little_time_beside_the_model(connect: Connect) -> None:
    """Names and labels are made once for an answer, not for each text."""
    from pyllmclf.server.service import Answer

    client = connect()
    served = client.app.state.service.catalog.default  # type: ignore[attr-defined]
    rows = np.zeros((50, len(served.classifier.classes_)))
    answer = Answer(served, rows, rows, ["account"] * 50, np.zeros(50), 0)
    assert answer.best is answer.best and answer.classes is answer.classes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_texts": 0}, "max_texts=0 must be a positive"),
        ({"deadline": -1.0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"max_wait_ms": -0.1}, "max_wait_ms"),
        ({"max_texts": 10, "max_queue": 5}, "no room"),
        ({"api_key": " "}, "api_key"),
        ({"api_key": "schlüssel"}, "ASCII"),
        ({"cors_origins": ("*",)}, "every web page"),
        ({"max_text": 3}, "max_text is no option"),
        ({"max_texts": "3"}, "max_texts"),
        ({"max_texts": True}, "max_texts"),
        ({"api_key": ""}, "empty"),
        ({"max_queue": 2.5}, "max_queue"),
    ],
)
def test_options_are_checked(classifier: Classifier, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pyllmclf.server.app(classifier, **options)


def test_no_classifier() -> None:
    with pytest.raises(UsageError, match="no classifier"):
        pyllmclf.server.app({})


# --- metrics, log, documents ------------------------------------------------------------------------------------------


def metric(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")]
    assert len(values) == 1, name
    return values[0]


def test_metrics(connect: Connect, classifier: Classifier) -> None:
    client = connect()
    client.post("/classify", json={"input": TEXTS})
    client.post("/classify", json={"input": "word " * 200})
    client.post("/classify", json={})
    assert metric(client, 'pyllmclf_requests_total{path="/classify",status="200"}') == 2
    assert metric(client, 'pyllmclf_requests_total{path="/classify",status="400"}') == 1
    assert metric(client, 'pyllmclf_request_seconds_count{path="/classify"}') == 3
    assert metric(client, 'pyllmclf_texts_total{model="tickets"}') == len(TEXTS) + 1
    tokens = int(classifier.packer(TEXTS).tokens_by_text.sum()) + 48
    assert metric(client, 'pyllmclf_tokens_total{model="tickets"}') == tokens
    assert metric(client, 'pyllmclf_truncated_texts_total{model="tickets"}') == 1 + classifier.packer(TEXTS).cut
    assert metric(client, "pyllmclf_batch_tokens_sum") == tokens
    assert metric(client, "pyllmclf_queued_texts") == 0
    predicted = classifier.predict([*TEXTS, "word " * 200])
    for label in set(predicted):
        name = f'pyllmclf_labels_total{{label="{label}",model="tickets"}}'
        assert metric(client, name) == predicted.count(label)


def test_unknown_paths_and_models_make_no_new_series(connect: Connect) -> None:
    client = connect()
    for i in range(20):
        client.get(f"/nothing/{i}")
        client.post("/classify", json={"model": f"m{i}", "input": "a"})
    page = client.get("/metrics").text
    assert "nothing" not in page and "m7" not in page
    assert metric(client, 'pyllmclf_requests_total{path="other",status="404"}') == 20


def test_access_log_has_no_text(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    client = connect()
    with caplog.at_level(logging.INFO, "pyllmclf.access"):
        client.post("/classify?secret=word", json={"input": ["a private text", "b"]}, headers={"X-Request-ID": "id-7"})
        client.post("/classify", json={"model": "private", "input": "b"}, headers={"X-Request-ID": "bad id\x7f"})
    first, second = [json.loads(record.message) for record in caplog.records if record.name == "pyllmclf.access"]
    assert first["status"] == 200 and first["request_id"] == "id-7" and first["texts"] == 2
    assert first["path"] == "/classify" and first["model"] == "tickets" and first["ms"] > 0
    assert second["status"] == 404 and second["request_id"] != "bad id\x7f"
    assert "private" not in caplog.text and "secret" not in caplog.text


def test_the_document_is_what_is_answered(connect: Connect) -> None:
    client = connect()
    content = client.get("/openapi.json").json()
    assert content == json.loads(json.dumps(document(needs_key=False)))
    assert set(content["paths"]) | {"/openapi.json", "/", "/files"} >= {
        route.path
        for route in client.app.routes
        if not route.path.startswith("/static")  # type: ignore[attr-defined]
    }
    answers = {
        "/classify": client.post("/classify", json={"input": TEXTS}),
        "/predict": client.post("/predict", json={"inputs": "a"}),
        "/v1/models": client.get("/v1/models"),
        "/v2/models/{name}/infer": infer(client, TEXTS),
    }
    for path, answer in answers.items():
        (operation,) = content["paths"][path].values()
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(schema).validate(answer.json())
    error = content["components"]["schemas"]["Error"]
    for path in ("/classify", "/predict", INFER_PATH):
        jsonschema.Draft202012Validator(error).validate(client.post(path, json={}).json())
    assert "securitySchemes" in document(needs_key=True)["components"]


def test_the_application_can_be_mounted_in_another(classifier: Classifier) -> None:
    inner = pyllmclf.server.app(classifier, api_key="k")
    client = TestClient(Starlette(routes=[Mount("/texts", inner)]))
    assert client.get("/texts/health").status_code == 200
    assert client.post("/texts/classify", json={"input": "a"}).status_code == 401
    right = {"Authorization": "Bearer k"}
    assert client.post("/texts/classify", json={"input": "a"}, headers=right).status_code == 200
    missing = client.get("/texts/v2/nothing", headers=right)
    assert missing.status_code == 404 and isinstance(missing.json()["error"], str)
    inner.state.service.close()


def test_an_application_that_has_ended_refuses(classifier: Classifier) -> None:
    app = pyllmclf.server.app(classifier)
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
    client = TestClient(app)
    assert client.get("/health").status_code == 503
    assert client.get("/v2/health/ready").status_code == 503
    answer = client.post("/classify", json={"input": "a"})
    assert answer.status_code == 503 and "shutting down" in error_of(answer)


def test_every_option_has_a_default_that_is_valid() -> None:
    assert ServerOptions() == ServerOptions(**vars(ServerOptions()))
