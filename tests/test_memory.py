"""Available memory, according to the system and its control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyllmclf import memory


def test_available_memory() -> None:
    assert 0 < memory.available_memory() <= memory.physical_memory()


def test_a_control_group_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limit").write_text("3000\n")
    (tmp_path / "used").write_text("1000\n")
    (tmp_path / "unlimited").write_text("max\n")
    files = [("unlimited", "used"), ("limit", "used"), ("not there", "used")]
    monkeypatch.setattr(memory, "_control_groups", lambda: ((tmp_path / a, tmp_path / b) for a, b in files))
    assert memory.available_memory() == 2000


def test_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", silent)
    assert memory.available_memory() == memory.physical_memory() // 2
