"""Scripts that matter to segmentation, as character classes for regular expressions."""

from __future__ import annotations

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Scripts written without spaces between words: Thai, Lao, Hiragana, Katakana, Han."""

HANGUL = "\uac00-\ud7af"
"""Korean syllables. Korean has spaces, but particles are attached to words, so exact words rarely recur."""
