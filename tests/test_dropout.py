"""Dropout: the generator's published values, statistics, and independence of how texts are batched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import offsets, relative_error

from pyllmclf import UsageError, ops
from pyllmclf.ops import DropoutKey
from pyllmclf.ops.philox import philox

FULL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL, FULL, FULL, FULL), (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Known-answer vectors of the Random123 library."""
    words = philox(tuple(torch.tensor([c]) for c in counter), key)  # type: ignore[arg-type]
    assert tuple(int(w) for w in words) == expected


def key(lengths: tuple[int, ...], example_ids: tuple[int, ...], **changes: int) -> DropoutKey:
    sizes = torch.tensor(lengths, dtype=torch.int64)
    examples = torch.tensor(example_ids)
    positions = torch.cat([torch.arange(n) for n in lengths]).int()
    made = DropoutKey(
        seed=1,
        step=2,
        layer=3,
        site=1,
        example_ids=examples,
        row_example_ids=examples.repeat_interleave(sizes),
        row_positions=positions,
    )
    return replace(made, **changes)


def test_share_and_scale() -> None:
    x = torch.ones(500, 999)
    dropped = ops.dropout(x, 0.25, key((500,), (0,)))
    values = dropped.unique()
    assert torch.allclose(values, torch.tensor([0.0, 1 / 0.75]))
    # Four standard deviations of the share of a binomial variable.
    assert abs(float((dropped == 0).double().mean()) - 0.25) < 4 * (0.25 * 0.75 / x.numel()) ** 0.5
    assert ops.dropout(x, 0.0, key((500,), (0,))) is x


@pytest.mark.parametrize("change", [{"seed": 9}, {"step": 9}, {"layer": 9}, {"site": 2}])
def test_every_number_of_the_key_matters(change: dict[str, int]) -> None:
    x = torch.ones(8, 64)
    assert not torch.equal(ops.dropout(x, 0.5, key((8,), (0,))), ops.dropout(x, 0.5, key((8,), (0,), **change)))
    assert not torch.equal(ops.dropout(x, 0.5, key((8,), (0,))), ops.dropout(x, 0.5, key((8,), (1,))))


def test_rows_do_not_depend_on_the_batch() -> None:
    x = torch.ones(9, 10)
    together = ops.dropout(x, 0.5, key((4, 5), (7, 3)))
    swapped = ops.dropout(x, 0.5, key((5, 4), (3, 7)))
    assert torch.equal(together[:4], swapped[5:]) and torch.equal(together[4:], swapped[:5])
    assert torch.equal(together[:4], ops.dropout(x[:4], 0.5, key((4,), (7,))))


def test_gradient_goes_through_the_mask() -> None:
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ops.dropout(x, 0.3, key((6,), (0,))), (x,))


def test_attention_dropout(generator: torch.Generator) -> None:
    """Written out: the mask of each text, head, query and key position."""
    lengths, examples = (5, 3), (11, 4)
    q, k, v = (torch.randn(8, 2, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    cu = offsets(lengths)
    made = key(lengths, examples)
    found = ops.attention(q, k, v, cu, cu, 5, 5, causal=True, dropout_p=0.4, dropout_key=made)
    start = 0
    for length, example in zip(lengths, examples, strict=True):
        for head in range(2):
            for i in range(length):
                row = start + i
                scores = (q[row, head] @ k[start : row + 1, head].T / 2.0).softmax(-1)
                for j in range(i + 1):
                    counter = (j // 4, i, example, (head << 16) | made.stream)
                    word = philox(tuple(torch.tensor([c]) for c in counter), (1, 2))[j % 4]  # type: ignore[arg-type]
                    scores[j] = scores[j] / 0.6 if int(word) >= round(0.4 * 2**32) else 0.0
                assert relative_error(found[row, head], scores @ v[start : row + 1, head]) < 1e-12
        start += length


def test_attention_dropout_does_not_depend_on_the_batch(generator: torch.Generator) -> None:
    q, k, v = (torch.randn(9, 2, 4, generator=generator) for _ in range(3))
    both = ops.attention(
        q, k, v, offsets((4, 5)), offsets((4, 5)), 5, 5, causal=False, dropout_p=0.5, dropout_key=key((4, 5), (7, 3))
    )
    cu = offsets((5,))
    one = ops.attention(q[4:], k[4:], v[4:], cu, cu, 5, 5, causal=False, dropout_p=0.5, dropout_key=key((5,), (3,)))
    assert relative_error(both[4:], one) < 1e-6


def test_lora_dropout(backend: str, dtype_of: torch.dtype, generator: torch.Generator) -> None:
    """Dropout is applied to the input of the low-rank part alone, in the gradients too."""
    sizes = ((6, 8), (5, 8), (2, 8), (5, 2))
    inputs = [torch.randn(s, generator=generator, dtype=dtype_of).requires_grad_() for s in sizes]
    x, weight, a, b = inputs
    made = key((6,), (0,))
    found = ops.lora_linear(x, weight, None, a, b, scaling=2.0, dropout_p=0.5, dropout_key=made)
    expected = x @ weight.T + 2.0 * ops.dropout(x, 0.5, made) @ a.T @ b.T
    assert relative_error(found.detach(), expected.detach()) < 1e-6
    factor = torch.randn(6, 5, generator=generator, dtype=dtype_of)
    gradients = [torch.autograd.grad(out, inputs, factor) for out in (found, expected)]
    for mine, exact in zip(*gradients, strict=True):
        assert relative_error(mine, exact) < 1e-5


@pytest.mark.parametrize("width", [1, 7, 64, 133])
def test_native_masks_are_the_reference_masks(width: int, generator: torch.Generator) -> None:
    """Bit for bit; and attention with dropout, forward and backward, in both."""
    lengths = torch.tensor([70, 1, 9])
    positions = torch.cat([torch.arange(n) for n in lengths])
    key = ops.DropoutKey(
        5, 6, 7, 1, torch.tensor([4, 2, 9]), torch.tensor([4, 2, 9]).repeat_interleave(lengths), positions
    )
    x = torch.randn(80, width, generator=generator)
    results = []
    for backend in ("reference", "native"):
        qkv = torch.randn(80, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with ops.use_backend(backend):
            dropped = ops.dropout(x, 0.3, key)
            cu = torch.tensor([0, 70, 71, 80], dtype=torch.int32)
            out = ops.attention_packed(qkv, cu, 70, heads=2, causal=width % 2 == 0, dropout_p=0.3, dropout_key=key)
            out.square().sum().backward()
        results.append((dropped, out.detach(), qkv.grad))
    (one, first, gradient), (two, second, other) = results
    assert torch.equal(one == 0, two == 0) and torch.allclose(one, two, rtol=1e-6)
    for a, b in ((second, first), (other, gradient)):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-5


@pytest.mark.parametrize("p", [-0.5, 1.0, 1.0 - 1e-12, float("nan")])
def test_rates_that_there_are_not(p: float, backend: str) -> None:
    x, made, cu = torch.ones(4, 8), key((4,), (0,)), offsets((4,))
    dropout = {"dropout_p": p, "dropout_key": made}
    for call in (
        lambda: ops.dropout(x, p, made),
        lambda: ops.attention(x[:, None], x[:, None], x[:, None], cu, cu, 4, 4, causal=True, **dropout),
        lambda: ops.lora_linear(x, torch.ones(8, 8), None, torch.ones(2, 8), torch.ones(8, 2), scaling=1.0, **dropout),
    ):
        with pytest.raises(UsageError, match="rate"):
            call()
