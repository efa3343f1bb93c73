"""Effects. Whether a language model answers a token from what comes before it alone: found by running it, and not by its name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tasks.contract import BadInput, Finding, raise_if_of_machine
from tasks.files.configs import CONFIG, special_tokens

_TOKENS = 4


def check_causal(module: Any, settings: Any) -> tuple[Finding, ...]:
    """Runs two texts that differ in their last token alone, side by side; a finding if the model cannot be run so.

    Errors: BadInput, if the answers to the tokens before it differ by more than rounding does: a loss would then be that of a
    model which sees what it is asked for.
    """
    try:
        logits = _logits(module, _texts(module, settings))[:, :-1]
    except Exception as error:  # a model's code may fail in any manner on a text that is none
        raise_if_of_machine(error)
        return (
            _not_probed(f"it cannot be run on {_TOKENS} tokens ({type(error).__name__}: {error!s:.200})"),
        )
    if not bool(logits.isfinite().all()):
        return (_not_probed("it answers with NaN or infinity"),)
    apart = float((logits[0].double() - logits[1].double()).abs().max())
    numbers = (logits, *module.parameters())
    coarsest = max(torch.finfo(one.dtype).eps for one in numbers if one.is_floating_point())
    if apart > coarsest**0.5 / 4 * float(logits.abs().max()):
        raise BadInput(
            "the model is no causal language model",
            why=f"another last token changes its answers to those before it by {apart:.2g}, so it sees what it is asked to predict",
            do="Use a causal language model; if it can be one, such as a Bert, set is_decoder to true.",
            file=CONFIG,
        )
    return ()


def _texts(module: Any, settings: Any) -> torch.Tensor:
    """[2, tokens] of usual tokens, the second text with another last one."""
    table: nn.Embedding = module.get_input_embeddings()
    special = special_tokens(settings)
    usual = [token for token in range(len(table.weight)) if token not in special][: _TOKENS + 1]
    ids = torch.tensor([usual[:_TOKENS], [*usual[: _TOKENS - 1], usual[_TOKENS]]])
    return ids.to(table.weight.device)


def _logits(module: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        answer = module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    logits: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.logits
    return logits


def _not_probed(why: str) -> Finding:
    message = f"whether the model sees the tokens that it is asked to predict is not known: {why}"
    return Finding(kind="not_probed", subject="model", message=message)
