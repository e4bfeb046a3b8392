"""The tokens of a text, each on a ground whose colour is its relevance."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relprop.errors import RelpropError
from relprop.explanation.maps import Maps
from relprop.files import OutputError
from relprop.pictures.tiles import write_png
from relprop.pictures.words import visible, words_as_html, words_figure, words_for_terminal

Tokenizer = Any
"""What has ``decode(ids)``, as tokenizers of Hugging Face do; a function of one index; or a sequence of words."""


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """Texts whose tokens are coloured: red where they speak for the target, blue where they speak against it.

    A notebook shows them, `save` writes a PNG, and ``print`` colours them in a terminal. Colours are relative to the
    largest magnitude of each text.

    Parameters
    ----------
    words : sequence of sequence of str
        The tokens of each sample.
    values : ndarray
        Relevance of each token, ``(B, T)``.
    titles : sequence of str
        A name per sample.
    """

    words: Sequence[Sequence[str]]
    values: NDArray[np.floating[Any]]
    titles: Sequence[str]

    def figure(self) -> Figure:
        """Draw the texts one below the other."""
        return words_figure(list(zip(self.titles, self.words, self.values, strict=True)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write what `figure` draws as PNG.

        Raises
        ------
        OutputError
            If the path does not end in ``.png``, or it can't be written.
        """
        if Path(path).suffix != ".png":
            raise OutputError(f"cannot write {path}: tokens are drawn as .png")
        write_png(self.figure(), Path(path))

    def coloured(self) -> str:
        """Return the texts for a terminal with 24-bit colours."""
        rows = zip(self.titles, self.words, self.values, strict=True)
        return "\n".join(f"{visible(title)}: {words_for_terminal(words, values)}" for title, words, values in rows)

    def __str__(self) -> str:
        if sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
            return self.coloured()
        rows = zip(self.titles, self.words, self.values, strict=True)
        return "\n".join(
            f"{visible(title)}: "
            + " ".join(f"{visible(word)!r} {value:+.3g}" for word, value in zip(words, values, strict=True))
            for title, words, values in rows
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = zip(self.titles, self.words, self.values, strict=True)
        return "".join(words_as_html(words, values, title) for title, words, values in rows)


def tokens_of(explanation: Maps, tokenizer: Tokenizer, titles: Sequence[str], source: str | None = None) -> Tokens:
    """Return the tokens of an explanation, see `Explanation.tokens`."""
    named = [name for name in explanation.looked_up if explanation.relevances[name].ndim == 2]
    if source is None and len(named) == 1:
        source = named[0]
    if source not in named:
        raise RelpropError(
            f"tokens need a source of token indices (B, tokens), not {source!r}: "
            + (f"take one of {', '.join(named)}" if named else "this explanation has none")
        )
    word = word_of(tokenizer)
    words = [[word(index) for index in row] for row in explanation.indices[source].tolist()]
    return Tokens(words, explanation.relevances[source].float().cpu().numpy(), titles)


def word_of(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return the function from a token's index to its text.

    Raises
    ------
    TypeError
        If a tokenizer is nothing that could tell.
    """
    if hasattr(tokenizer, "decode"):
        return lambda index: str(tokenizer.decode([index]))
    if callable(tokenizer):
        return lambda index: str(tokenizer(index))
    if isinstance(tokenizer, Sequence):
        return lambda index: str(tokenizer[index])
    raise TypeError(
        f"a tokenizer has decode(ids), or is a function of an index or a sequence of words, not {tokenizer!r}"
    )
