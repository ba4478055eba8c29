"""Scripts that matter to segmentation, as parts of a character class for the `regex` module (version 1 syntax)."""

from __future__ import annotations

UNSPACED = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hiragana}\p{Katakana}ー\p{Han}"
"""Scripts written without spaces between words, their combining marks included. `ー` lengthens a Kana vowel."""

HANGUL = r"\p{Hangul}"
"""Korean. It has spaces, but particles are attached to words, so exact words rarely recur."""
