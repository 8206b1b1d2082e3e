"""The tokens of prompts: new ones for what was learned, and whether the text encoder sees all of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.settings import UserError


def add_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Make each of `tokens` one token, and give their ids."""
    from tokenizers import AddedToken

    known = set(tokens) & set(tokenizer.get_vocab())
    if known:
        raise UserError(f"the tokenizer knows {min(known)!r} already: it cannot stand for a class")
    # Not normalised: lower case would make <class-A> and <class-a> one. Not special: they are words of a prompt.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def check_tokens(tokenizer: Any, positions: int, prompts: Mapping[str, Sequence[str]]) -> None:
    """What is cut, and what was learned but does not occur, would be missing without a word."""
    longest = min(tokenizer.model_max_length, positions)
    for prompt, tokens in prompts.items():
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) > longest:
            raise UserError(f"the prompt {prompt!r} has {len(ids)} tokens, the text encoder reads {longest}")
        if tokens and not {*tokenizer.convert_tokens_to_ids(list(tokens))} & {*ids}:
            raise UserError(f"the prompt {prompt!r} holds no {tokens[0]!r}: what was learned would not be used")
