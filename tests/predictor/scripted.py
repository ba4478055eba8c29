"""A scripted language model: the answers of the models in `layouts` to the prompts of the contract suite."""

import random

SENTENCE = ("The", " capital", " of", " France", " is", " Paris", " 🙂", ".")
WORDS = (" once", " a", " fox", " saw", " the", " 🦊", " and", " ran", " home", " again")


def answer(prompt, max_tokens, seed, greedy):
    """The words that follow, and why they end; None if the prompt is not of the contract."""
    if "capital of France" in prompt:
        words = SENTENCE
    elif "Once upon a time" in prompt:
        words = random.Random(0 if greedy else seed).choices(WORDS, k=max_tokens)  # noqa: S311
    else:
        return None
    return list(words[:max_tokens]), "length" if len(words) >= max_tokens else "stop"
