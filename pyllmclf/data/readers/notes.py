"""What a reader has found out about a source by itself, said in one line."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field


@dataclass
class Notes:
    """Collects what was found out about a source, and warns once.

    Attributes
    ----------
    origin : str
    """

    origin: str
    _found: list[str] = field(default_factory=list)
    _arguments: list[str] = field(default_factory=list)

    def add(self, found: str, *arguments: str) -> None:
        """Adds a finding, such as ``"as cp1252"``, once, and the arguments that say otherwise."""
        if found not in self._found:
            self._found.append(found)
        self._arguments += [name for name in arguments if name not in self._arguments]

    def say(self) -> None:
        """Warns, if there is something to say."""
        if not self._found:
            return
        otherwise = ""
        if self._arguments:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in self._arguments)
            otherwise = f"; if that is wrong, say {' and '.join(self._arguments)} ({options})"
        warnings.warn(f"{self.origin}: read {', '.join(self._found)}{otherwise}.", UserWarning, stacklevel=3)
        self._found.clear()
