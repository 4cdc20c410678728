"""Memory that a long training or a long prediction must not gather."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

SHAPES = """
import ctypes
import torch
from pyllmclf import ops

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Figures(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Figures
torch.set_num_threads(1)
weight = torch.randn(512, 128, requires_grad=True)

def in_use():
    figures = libc.mallinfo2()
    return figures.uordblks + figures.hblkhd

def steps(first):
    for rows in range(first, first + 100):
        x = torch.ones(rows, 128, requires_grad=True)
        torch.autograd.grad(ops.linear(x, weight).sum(), [x])

steps(100)
before = in_use()
steps(200)
print((in_use() - before) // 100)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads the figures of glibc's allocator")
def test_matmuls_of_new_shapes_keep_no_memory(tmp_path: Path) -> None:
    """Every packed batch has another number of rows; oneDNN's caches would keep 0.6 MB for each."""
    done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert int(done.stdout) < 50_000
