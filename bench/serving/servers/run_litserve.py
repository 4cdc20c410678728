"""transformers' text-classification pipeline behind LitServe, which collects texts into batches."""

from __future__ import annotations

import argparse
from typing import Any

import litserve
import torch
from transformers import pipeline


class Classify(litserve.LitAPI):
    """One text a request; LitServe sets ``max_batch_size`` and ``batch_timeout``."""

    def __init__(self, options: argparse.Namespace, **settings: Any) -> None:
        super().__init__(**settings)
        self.options = options

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        dtype = getattr(torch, self.options.dtype)
        limits = {"truncation": True, "max_length": self.options.max_length}
        self.pipe = pipeline("text-classification", model=self.options.folder, device=device, dtype=dtype, **limits)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe takes an annotation for a schema
        return request["input"]

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """Sorted by length, so that the pipeline pads each step to texts of about its length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            found = self.pipe([texts[i] for i in order], batch_size=self.options.step)
        answers: list[dict[str, Any]] = [{}] * len(texts)
        for place, answer in zip(order, found, strict=True):
            answers[place] = answer
        return answers

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {"data": [{"index": 0, "label": answer["label"], "probs": [answer["score"]]}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16, help="most texts of a batch")
    parser.add_argument("--step", type=int, default=8, help="texts that are computed together")
    parser.add_argument("--wait-ms", type=float, default=2.0)
    options = parser.parse_args()
    api = Classify(options, max_batch_size=options.batch, batch_timeout=options.wait_ms / 1000, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
