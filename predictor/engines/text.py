"""Tokens that arrive one by one, as text that may be shown: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "�"


class TextAssembler:
    """The text of one generation, grown token by token.

    `visible` only ever grows at its end. It never ends inside a character, and never holds a stop string or what may
    still become one.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._longest_stop = max((len(s) for s in self._stop), default=0)
        self._ids: list[int] = []
        self._shown_from = 0  # ids before this one are in _text, and are not needed as context either
        self._decoded_to = 0  # ids before this one are in _text
        self._text = ""
        self.visible = ""
        self.stopped_by: str | None = None
        """The stop string that was complete first; nothing more is taken after it."""

    def push(self, ids: Sequence[int]) -> None:
        """Takes the next tokens.

        A token's text depends on the one before it (leading spaces, characters in several tokens), so each is decoded
        behind the last tokens that are known to end a character.
        """
        if self.stopped_by is not None:
            return
        self._ids.extend(ids)
        before = self._decode(self._ids[self._shown_from : self._decoded_to])
        after = self._decode(self._ids[self._shown_from :])
        if len(after) > len(before) and not after.endswith(_INCOMPLETE):
            self._append(after[len(before) :])
            self._shown_from, self._decoded_to = self._decoded_to, len(self._ids)

    def finish(self) -> None:
        """Says that no token follows: what was held back is shown, except half a character."""
        if self.stopped_by is not None:
            return
        before = self._decode(self._ids[self._shown_from : self._decoded_to])
        after = self._decode(self._ids[self._shown_from :])
        self._append(after[len(before) :].rstrip(_INCOMPLETE))
        if self.stopped_by is None:
            self.visible = self._text

    def _append(self, piece: str) -> None:
        search_from = max(0, len(self._text) - self._longest_stop + 1)
        self._text += piece
        found = [(at + len(s), s) for s in self._stop if (at := self._text.find(s, search_from)) >= 0]
        if found:
            end, self.stopped_by = min(found, key=lambda each: (each[0], -len(each[1])))
            self.visible = self._text[: end - len(self.stopped_by)]
        else:
            self.visible = self._text[: len(self._text) - self._held_back()]

    def _held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        text = self._text
        return max(
            (n for s in self._stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n])),
            default=0,
        )
