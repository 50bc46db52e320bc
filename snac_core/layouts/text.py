"""Orpheus' tokens as text, ``<custom_token_N>``: what llama.cpp, LM Studio and Ollama stream.

Token id 128256 + N of Orpheus is ``<custom_token_N>``, so that its first audio token is N = 10.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from snac_core.errors import LayoutError

_TOKEN = re.compile(r"\s*<custom_token_([0-9]{1,10})>")
_BEGINNING = re.compile(r"\s*(<(c(u(s(t(o(m(_(t(o(k(e(n(_[0-9]{0,10})?)?)?)?)?)?)?)?)?)?)?)?)?)?")
_SHOWN = 40


def to_text(tokens: list[int]) -> list[str]:
    """Return one string for each token; joined, they are the text."""
    return [f"<custom_token_{token}>" for token in tokens]


class TextTokens:
    """Reads text in any pieces, also of parts of tokens.

    Parameters
    ----------
    skip
        Drop text between tokens that is neither a token nor white space, instead of refusing it.
    """

    def __init__(self, *, skip: bool = False) -> None:
        self.rest = ""
        """What has come of a token that is not whole yet."""
        self.dropped = 0
        """Pieces of other text that were dropped."""
        self._skip = skip

    def read(self, text: object) -> tuple[npt.NDArray[np.int64], LayoutError | None]:
        """Return the numbers of the tokens in ``text``, a string or a list of strings, [N].

        Returns
        -------
        The numbers, and the error of what follows them if it is no token.

        Raises
        ------
        LayoutError
            For anything but text.
        """
        pieces = text if isinstance(text, (list, tuple)) else [text]
        wrong = next((piece for piece in pieces if not isinstance(piece, str)), None)
        if wrong is not None:
            raise LayoutError(
                f"tokens must be text such as '<custom_token_1034>', not {type(wrong).__name__}; "
                "for numbers, use layout orpheus"
            )
        whole = self.rest + "".join(map(str, pieces))
        found: list[int] = []
        error, at = None, 0
        while at < len(whole):
            match = _TOKEN.match(whole, at)
            if match is not None:
                found.append(int(match[1]))
                at = match.end()
                continue
            if _BEGINNING.fullmatch(whole, at):
                break
            if not self._skip:
                shown = whole[at : at + _SHOWN]
                error = LayoutError(
                    f"{shown!r} is no <custom_token_N>, which follow one another; leave out other "
                    "text"
                )
                at = len(whole)
                break
            self.dropped += 1
            after = whole.find("<", at + 1)
            at = len(whole) if after < 0 else after
        self.rest = whole[at:].lstrip()
        return np.array(found, dtype=np.int64), error

    def finish(self) -> None:
        """Raise LayoutError if the last token is not whole."""
        if self.rest:
            raise LayoutError(f"the text ends in the middle of a token: {self.rest!r}")
