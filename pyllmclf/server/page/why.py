"""Explains one text at a time for the page, beside what the server classifies."""

from __future__ import annotations

import asyncio

from ...errors import PyllmclfError
from ...explain import Explanation
from ..catalog import Served
from ..errors import RequestError

# A text is explained in about ten times the passes of a classification: few steps, and no long text.
STEPS, MOST_CHARACTERS = 8, 4000


class Why:
    """Explanations in a thread beside the one that classifies, one after the other."""

    def __init__(self) -> None:
        self._busy = False

    async def explain(self, served: Served, text: str) -> Explanation:
        """The weights of a text's words for its most probable class.

        Raises
        ------
        RequestError
            413 if the text is too long, 429 if another text is being explained.
        """
        if len(text) > MOST_CHARACTERS:
            raise RequestError(
                413, f"a text of more than {MOST_CHARACTERS:,} characters is not explained here; cut it."
            )
        if self._busy:
            raise RequestError(429, "another text is being explained; try again in a moment.", {"Retry-After": "1"})
        self._busy = True
        try:
            # If the client goes away, the thread ends its work, and the next text waits for it.
            work = asyncio.get_running_loop().run_in_executor(
                None, lambda: served.classifier.explain(text, steps=STEPS)
            )
            work.add_done_callback(self._done)
        except RuntimeError:  # the server ends
            self._busy = False
            raise
        try:
            return await asyncio.shield(work)
        except PyllmclfError as error:
            raise RequestError(422, str(error)) from error

    def _done(self, work: asyncio.Future[Explanation]) -> None:
        self._busy = False
