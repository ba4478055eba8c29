"""Converts tokens to visible text: only whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "�"


class StoppedText:
    """A text that grows until it contains a stop string."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._longest_stop = max((len(s) for s in self._stop), default=0)
        self._text = ""
        self.visible = ""
        """Only grows, and never contains a stop string or the beginning of one."""
        self.stopped_by: str | None = None
        """The stop string that ended the text. Later text is ignored."""

    def append(self, piece: str) -> None:
        """Adds text."""
        if self.stopped_by is not None:
            return
        search_from = max(0, len(self._text) - self._longest_stop + 1)
        self._text += piece
        found = [(at + len(s), s) for s in self._stop if (at := self._text.find(s, search_from)) >= 0]
        if found:
            end, self.stopped_by = min(found, key=lambda each: (each[0], -len(each[1])))
            self.visible = self._text[: end - len(self.stopped_by)]
        else:
            self.visible = self._text[: len(self._text) - self._held_back()]

    def finish(self) -> None:
        """Call it after the last text: shows the text that was held back."""
        if self.stopped_by is None:
            self.visible = self._text

    def _held_back(self) -> int:
        """Length of the longest suffix of the text that may be the beginning of a stop string."""
        text = self._text
        return max(
            (n for s in self._stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n])),
            default=0,
        )


class TextAssembler:
    """Assembles the text of one generation from its tokens."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context_from = 0  # the first id that gives context for decoding
        self._decoded_to = 0  # the text of ids before this one has been appended
        self._text = StoppedText(stop)

    @property
    def visible(self) -> str:
        """The text so far. It only grows, never ends inside a character, and has nothing of a stop string."""
        return self._text.visible

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text. Later tokens are ignored."""
        return self._text.stopped_by

    def push(self, ids: Sequence[int]) -> None:
        """Adds tokens."""
        if self.stopped_by is not None:
            return
        self._ids.extend(ids)
        new = self._new_text()
        if new and not new.endswith(_INCOMPLETE):
            self._text.append(new)
            self._context_from, self._decoded_to = self._decoded_to, len(self._ids)

    def finish(self) -> None:
        """Call it after the last token: shows the text that was held back, except an incomplete character."""
        if self.stopped_by is not None:
            return
        self._text.append(self._new_text().rstrip(_INCOMPLETE))
        self._text.finish()

    def _new_text(self) -> str:
        """Text of the tokens that has not been appended yet.

        A token's text depends on earlier ones (leading spaces, characters that span tokens), so it is decoded together
        with the tokens of the previous piece.
        """
        before = self._decode(self._ids[self._context_from : self._decoded_to])
        return self._decode(self._ids[self._context_from :])[len(before) :]
