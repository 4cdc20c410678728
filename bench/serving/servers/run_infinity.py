"""infinity-emb's own command, with what its ONNX engine leaves out: batches, truncation, local folders, one thread.

Its engine ``optimum`` calls the pipeline without truncation, which fails on a text longer than the model's positions,
and without a batch size, which computes the texts of a batch one by one. Truncation and ``INFINITY_STEP`` texts at a
time are set here as the pipeline's defaults; the engine ``torch`` sets both itself, and truncates to the tokenizer's
``model_max_length``. Of a local folder it passes the graph's whole path where optimum expects its name. onnxruntime
gets one thread, since its own number of threads is that of the machine's cores, whichever the process may use.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"INFINITY_ANONYMOUS_USAGE_STATS": "false", "DO_NOT_TRACK": "1"}

import onnxruntime
import torch
from infinity_emb.cli import cli
from infinity_emb.transformer.classifier import optimum

STEP = int(os.environ.get("INFINITY_STEP", "1"))
found_graph = optimum.get_onnx_files


def graph_name(**settings: Any) -> Path:
    """Name of a local folder's graph."""
    return Path(found_graph(**settings).name)


class OneThread(optimum.ORTModelForSequenceClassification):
    """onnxruntime's session with one thread."""

    @classmethod
    def from_pretrained(cls, *arguments: Any, **settings: Any) -> Any:
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = session.inter_op_num_threads = 1
        return super().from_pretrained(*arguments, session_options=session, **settings)


if __name__ == "__main__":
    torch.set_num_threads(1)
    optimum.pipeline = functools.partial(optimum.pipeline, batch_size=STEP, truncation=True)
    optimum.get_onnx_files = graph_name
    optimum.ORTModelForSequenceClassification = OneThread
    sys.exit(cli())
