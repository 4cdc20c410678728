"""Classifying in int8: the products, the choice of layers, the check of labels, and the record in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import relative_error
from models import Folders
from safetensors.torch import load_file, save_file
from short_runs import LABELS, TEXTS
from test_checkpoint import edit_json, rehash
from torch import Tensor

import pyllmclf
from pyllmclf import ModelError, UsageError, ops
from pyllmclf.classifier import int8
from pyllmclf.classifier.int8 import linear_layers
from pyllmclf.cli.main import app, run
from pyllmclf.models.layers import Linear
from pyllmclf.ops.backends import native_cpu

# Half of the largest magnitude's 127th part, for a number of the rows and one of the weight.
HALF_STEP = 0.5 / 127
WIDE = {"weights": "random", "validation": False, "progress": False, "epochs": 8, "learning_rate": 2e-3}


def products(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    with ops.use_backend(backend):
        return ops.int8_linear(x, ops.Int8Weight.of(weight), bias)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 3, 5), (37, 65, 33), (0, 8, 8), (300, 64, 700)])
def test_products(rows: int, outputs: int, inputs: int, generator: torch.Generator) -> None:
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    exact = x.double() @ weight.double().t() + bias
    for given in (bias, None):
        native, plain = (products(x, weight, given, backend) for backend in ("native", "reference"))
        assert relative_error(native, plain) < 1e-6
    native = products(x, weight, bias, "native")
    # Each term is off by at most half a step of each factor.
    largest = x.abs().amax(1, keepdim=True) * weight.abs().amax(1)
    assert ((native - exact).abs() <= inputs * largest * (2 * HALF_STEP + HALF_STEP**2) + 1e-5).all()


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 3, 5), (13, 65, 33), (0, 8, 8), (29, 64, 700)])
@pytest.mark.parametrize("scaled", [False, True])
def test_both_products_have_the_same_bits(
    rows: int, outputs: int, inputs: int, scaled: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's product, and the core's own for processors without int8 instructions, by one and two threads."""
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    quantized = ops.Int8Weight.of(weight, torch.rand(inputs, generator=generator) + 0.1 if scaled else None)
    for given in (bias, None):
        monkeypatch.setattr(native_cpu, "torch_multiplies_int8", lambda: True)
        with ops.use_backend("native"):
            expected = quantized(x, given)
        monkeypatch.setattr(native_cpu, "torch_multiplies_int8", lambda: False)
        for threads in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            with ops.use_backend("native"):
                assert torch.equal(quantized(x, given), expected)


def test_largest_sums_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """127 * 127 in each of many terms, which int16 sums of pairs would overflow."""
    monkeypatch.setattr(native_cpu, "torch_multiplies_int8", lambda: False)
    x, weight = torch.full((7, 4096), -1.0), torch.ones(33, 4096)
    torch.testing.assert_close(products(x, weight, None, "native"), torch.full((7, 33), -4096.0))


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 3, 5), (37, 65, 33), (0, 8, 8), (300, 64, 700)])
def test_products_with_factors(rows: int, outputs: int, inputs: int, generator: torch.Generator) -> None:
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias, factors = torch.randn(outputs, generator=generator), torch.rand(inputs, generator=generator) + 0.1
    quantized = ops.Int8Weight.of(weight, factors)
    found = []
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            found.append(quantized(x, bias))
    assert relative_error(*found) < 1e-6
    largest = (x * factors).abs().amax(1, keepdim=True) * (weight / factors).abs().amax(1)
    exact = x.double() @ weight.double().t() + bias
    assert ((found[0] - exact).abs() <= inputs * largest * (2 * HALF_STEP + HALF_STEP**2) + 1e-5).all()


def test_factors_make_inputs_of_other_magnitudes_precise(generator: torch.Generator) -> None:
    layer = Linear(96, 64)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.weight[:, 5] *= 0.01
    x = torch.randn(200, 96, generator=generator)
    x[:, 5] *= 300
    recorder = int8.PeakRecorder(layer)
    for part in (x[:0], x[:100], x[100:]):
        recorder(part)
    torch.testing.assert_close(recorder.peaks, x.abs().amax(0))
    exact = x.double() @ layer.weight.double().t()
    errors = [
        relative_error(ops.Int8Weight.of(layer.weight, factors)(x), exact) for factors in (None, recorder.factors())
    ]
    assert errors[1] < errors[0] / 3


def test_each_row_and_output_has_its_own_scale(generator: torch.Generator) -> None:
    """A large row or output leaves the others as precise as they are."""
    x, weight = torch.randn(30, 64, generator=generator), torch.randn(20, 64, generator=generator)
    before = products(x, weight, None, "native")
    x[3] *= 1e6
    weight[7] *= 1e6
    after = products(x, weight, None, "native")
    rows, outputs = torch.arange(30) != 3, torch.arange(20) != 7
    assert torch.equal(before[rows][:, outputs], after[rows][:, outputs])


def test_zeros_and_numbers_that_are_not_finite(generator: torch.Generator) -> None:
    x, weight = torch.randn(5, 16, generator=generator), torch.randn(8, 16, generator=generator)
    x[1], x[2, 3], x[3, 4] = 0.0, float("inf"), float("nan")
    for backend in ("native", "reference"):
        found = products(x, weight, None, backend)
        assert (found[1] == 0).all() and found[2:4].isnan().all() and found[[0, 4]].isfinite().all()


def test_no_gradient() -> None:
    with pytest.raises(UsageError, match="no gradient"):
        ops.int8_linear(torch.zeros(2, 4, requires_grad=True), ops.Int8Weight.of(torch.ones(3, 4)))
    with pytest.raises(UsageError, match="don't fit"):
        ops.int8_linear(torch.zeros(2, 5), ops.Int8Weight.of(torch.ones(3, 4)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose layers are wide enough for int8, and which tells its texts apart."""
    folder = tmp_path_factory.mktemp("int8") / "saved"
    pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), trainable="all", **WIDE).classifier.save(folder)
    return folder


def test_layers_compute_in_int8(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = pyllmclf.load(trained, dtype="float32")
    classifier = pyllmclf.load(trained, dtype="int8", calibration=TEXTS)
    chosen = classifier.state.int8
    assert chosen is not None and chosen.texts == len(TEXTS) and chosen.agreement == 1.0 and not chosen.left_out
    layers = linear_layers(classifier.state.model)
    assert set(chosen.layers) == set(layers) and all(layer.int8 is not None for layer in layers.values())
    assert "0.attn.c_attn" in layers and "1.attn.c_attn" not in layers  # the last block reads one row per text
    assert set(chosen.factors) == set(layers)
    called: list[ops.Int8Weight] = []
    original = ops.Int8Weight.__call__
    monkeypatch.setattr(
        ops.Int8Weight, "__call__", lambda self, x, bias: (called.append(self), original(self, x, bias))[1]
    )
    classifier.logits(TEXTS[:1])
    assert {id(weight) for weight in called} == {id(layer.int8) for layer in layers.values()}
    monkeypatch.undo()
    assert classifier.predict(TEXTS) == exact.predict(TEXTS)
    difference = np.abs(classifier.logits(TEXTS) - exact.logits(TEXTS)).max()
    assert 0 < difference < 0.1 * np.abs(exact.logits(TEXTS)).max()
    # The choice is kept with the classifier.
    classifier.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "int8.safetensors").is_file()
    again = pyllmclf.load(tmp_path / "saved", dtype="int8")
    assert again.state.int8 == chosen and np.array_equal(again.logits(TEXTS), classifier.logits(TEXTS))
    assert all(layer.int8 is None for layer in linear_layers(pyllmclf.load(tmp_path / "saved").state.model).values())


def test_results_do_not_depend_on_the_batch(trained: Path) -> None:
    classifier = pyllmclf.load(trained, dtype="int8", calibration=TEXTS)
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    assert np.allclose(classifier.logits(TEXTS), alone, atol=1e-5)


def quantized_badly(bad: set[str], classifier: Callable) -> Callable:
    """Int8Weight.of that destroys the weights of some layers."""
    original = ops.Int8Weight.of

    def of(weight: Tensor, factors: Tensor | None = None) -> ops.Int8Weight:
        made = original(weight, factors)
        names = {name for name, layer in linear_layers(classifier()).items() if layer.weight is weight}
        return replace(made, values=made.values.flip(0), scales=made.scales * 1e4) if names & bad else made

    return of


def test_layers_that_change_labels_are_left_out(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a layer has outliers that int8 can't hold."""
    seen: list[torch.nn.Module] = []
    original = int8.linear_layers
    monkeypatch.setattr(int8, "linear_layers", lambda model: (seen.append(model), original(model))[1])
    names = list(original(pyllmclf.load(trained).state.model))
    bad = {names[1]}
    monkeypatch.setattr(ops.Int8Weight, "of", staticmethod(quantized_badly(bad, lambda: seen[-1])))
    classifier = pyllmclf.load(trained, dtype="int8", calibration=TEXTS)
    chosen = classifier.state.int8
    assert chosen is not None and set(chosen.left_out) == bad and chosen.agreement == 1.0
    assert chosen.layers == tuple(name for name in names if name not in bad)
    # Where any layer in int8 changes labels, it is refused, and the worst are named.

    def labels(classifier: pyllmclf.Classifier, logits: np.ndarray) -> list[bool]:
        return [any(layer.int8 is not None for layer in original(classifier.state.model).values())] * len(logits)

    monkeypatch.setattr(int8, "labels_of", labels)
    with pytest.raises(ModelError, match=rf"changes the label of 12 of 12 .*even where the 3 layers.*{names[1]}"):
        pyllmclf.load(trained, dtype="int8", calibration=TEXTS)


def test_lora_is_merged(model_folder: Folders, tmp_path: Path) -> None:
    result = pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), trainable="lora", **WIDE)
    result.classifier.save(tmp_path / "saved")
    classifier = pyllmclf.load(tmp_path / "saved", dtype="int8", calibration=TEXTS)
    assert classifier.state.lora is None
    assert all(m.lora_a is None for m in classifier.state.model.modules() if isinstance(m, Linear))
    _check_labels_and_logits(classifier, result.classifier)


def _check_labels_and_logits(int8: pyllmclf.Classifier, exact: pyllmclf.Classifier) -> None:
    """Equal labels of several kinds, from logits that differ."""
    assert int8.predict(TEXTS) == exact.predict(TEXTS)
    assert len({str(label) for label in exact.predict(TEXTS)}) > 1
    assert not np.array_equal(int8.logits(TEXTS), exact.logits(TEXTS))


def test_several_labels(tmp_path: Path) -> None:
    labels = [["cat"] * label + ["red"] * ("red" in text) for text, label in zip(TEXTS, LABELS, strict=True)]
    data = (TEXTS, labels)
    result = pyllmclf.finetune("gpt2-nano", data, trainable="all", multi_label=True, **WIDE)
    result.classifier.save(tmp_path / "saved")
    classifier = pyllmclf.load(tmp_path / "saved", dtype="int8", calibration=TEXTS)
    _check_labels_and_logits(classifier, result.classifier)


def test_calibration_texts(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "\n".join(TEXTS) + "\n", encoding="utf-8")
    classifier = pyllmclf.load(trained, dtype="int8", calibration=file)
    assert classifier.state.int8 is not None and classifier.state.int8.texts == len(TEXTS)
    with pytest.raises(UsageError, match="needs texts"):
        pyllmclf.load(trained, dtype="int8")
    with pytest.raises(UsageError, match="calibration has no text"):
        pyllmclf.load(trained, dtype="int8", calibration=[])
    with pytest.raises(UsageError, match="is for dtype='int8'"):
        pyllmclf.load(trained, calibration=TEXTS)


def test_a_forged_record_is_refused(trained: Path, tmp_path: Path) -> None:
    pyllmclf.load(trained, dtype="int8", calibration=TEXTS).save(tmp_path / "saved")
    for record, problem in [
        ({"layers": ["9.attn"], "left_out": [], "agreement": 1.0, "texts": 3}, "no layer '9.attn'"),
        ({"layers": "all", "left_out": [], "agreement": 1.0, "texts": 3}, "lists of layers"),
        ({"layers": [], "left_out": [], "agreement": 7, "texts": 3}, "share of equal labels"),
    ]:
        edit_json(tmp_path / "saved" / "pyllmclf.json", int8=record)
        rehash(tmp_path / "saved")
        with pytest.raises(ModelError, match=problem):
            pyllmclf.load(tmp_path / "saved", dtype="int8")


def test_forged_factors_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    classifier = pyllmclf.load(trained, dtype="int8", calibration=TEXTS)
    classifier.save(folder)
    file = folder / "int8.safetensors"
    factors = load_file(file)
    first = next(iter(factors))
    for forged in (factors[first][1:], factors[first] * 0, factors[first] * float("nan"), factors[first].double()):
        save_file(factors | {first: forged.contiguous()}, file)
        rehash(folder)
        with pytest.raises(ModelError, match=rf"the factors of '{first}' are not"):
            pyllmclf.load(folder, dtype="int8")
    file.write_bytes(b"damaged")
    with pytest.raises(ModelError):
        pyllmclf.load(folder, dtype="int8")


def test_a_record_without_factors(trained: Path, tmp_path: Path) -> None:
    """As written before there were factors."""
    classifier = pyllmclf.load(trained, dtype="int8", calibration=TEXTS)
    assert classifier.state.int8 is not None
    classifier.state.int8.factors.clear()
    classifier.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "int8.safetensors").exists()
    again = pyllmclf.load(tmp_path / "saved", dtype="int8")
    layers = linear_layers(again.state.model).values()
    assert all(isinstance(layer.int8, ops.Int8Weight) and layer.int8.factors is None for layer in layers)
    assert np.isfinite(again.logits(TEXTS)).all()


def test_commands(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str]) -> int:
        return run(app, "pyllmclf", arguments)

    file = tmp_path / "texts.csv"
    rows = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    file.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    how = ["--dtype", "int8", "--calibration", str(file)]
    assert main(["eval", str(trained), str(file), *how, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["accuracy"] == 1.0 and "int8: " in captured.err
    capsys.readouterr()
    assert main(["predict", str(trained), str(file), *how, "--label-only", "--no-progress"]) == 0
    assert capsys.readouterr().out.split() == [str(label) for label in LABELS]
    assert main(["predict", str(trained), str(file), "--dtype", "int8"]) == 2
    assert "--calibration" in capsys.readouterr().err


def test_onnx(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    classifier = pyllmclf.load(trained, dtype="float32")
    classifier.export(tmp_path / "onnx", format="onnx", quantize=TEXTS)
    assert sorted(path.name for path in (tmp_path / "onnx").glob("*.onnx*")) == ["model.onnx"]
    graph = onnx.load(str(tmp_path / "onnx" / "model.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    # Two blocks, less the projections of the last one, which has one row per text.
    assert kinds.count("MatMulInteger") == 7
    tables = {name for node in graph.node if node.op_type == "Gather" for name in node.input}
    kinds_of = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.name in tables}
    assert onnx.TensorProto.FLOAT in kinds_of.values() and onnx.TensorProto.UINT8 not in kinds_of.values()
    session = runtime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = classifier.packer(TEXTS[:1]).batch([0]).input_ids.numpy().astype(np.int64)[None]
    logits = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    difference = np.abs(logits - classifier.logits(TEXTS[:1])).max()
    assert 0 < difference < 0.1 * np.abs(logits).max()
    assert all(layer.int8 is None for layer in linear_layers(classifier.state.model).values())  # itself is unchanged
    # A classifier in int8 exports its own choice, and its plain graph is in fp32.
    loaded = pyllmclf.load(trained, dtype="int8", calibration=TEXTS)
    loaded.export(tmp_path / "again", format="onnx", quantize=True)
    again = onnx.load(str(tmp_path / "again" / "model.onnx")).graph
    assert [node.op_type for node in again.node] == kinds
    loaded.export(tmp_path / "plain", format="onnx")
    plain = onnx.load(str(tmp_path / "plain" / "model.onnx")).graph
    assert "MatMulInteger" not in [node.op_type for node in plain.node]
    with pytest.raises(UsageError, match="is for format='onnx'"):
        classifier.export(tmp_path / "other", format="torch", quantize=np.array(TEXTS))
    with pytest.raises(UsageError, match="give texts"):
        classifier.export(tmp_path / "other", format="onnx", quantize=True)
    # Where onnxruntime changes labels, nothing is written.
    import pyllmclf.classifier.onnx_int8 as onnx_int8

    monkeypatch.setattr(onnx_int8, "_logits", lambda classifier, path, texts: -classifier.logits(texts))
    with pytest.raises(ModelError, match="changes the label of 12 of 12"):
        classifier.export(tmp_path / "other", format="onnx", quantize=TEXTS)
    assert not (tmp_path / "other").exists()
