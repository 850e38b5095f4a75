"""Settings of transformers' `generate` that Bark has no use for: those accepted, and the reason for refusing others."""

from collections.abc import Mapping
from typing import Any

from bark_jax.config import BarkGenerationConfig
from bark_jax.generation.tokens import STAGES

_BEAMS = "beam search is not part of Bark"
_OUTPUTS = "Bark.generate gives the tokens of every stage and their log-probabilities"
_HIDDEN = "a network gives its hidden states where it is called with output_hidden_states=True"
_ATTENTIONS = "a network gives its attention weights where it is called with output_attentions=True"

# Settings that scripts for transformers use, with the reason that the error gives.
_REFUSED: Mapping[str, str] = {
    "num_beams": _BEAMS,
    "num_beam_groups": _BEAMS,
    "penalty_alpha": "contrastive search is not part of Bark",
    "repetition_penalty": "in transformers it penalises a placeholder, not the tokens",
    "coarse_max_new_tokens": "the coarse stage's length follows from the semantic tokens",
    "cache_implementation": "the cache is always static here",
    "use_cache": "the cache is always on",
    "max_length": "use max_new_tokens or max_seconds",
    "generation_config": "give its settings by name",
    "logits_processor": "each stage is one compiled program; change the tokens between stages instead",
    "stopping_criteria": "each stage is one compiled program; max_new_tokens and min_eos_p decide when a row ends",
    "return_dict_in_generate": _OUTPUTS,
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN,
    "output_logits": _OUTPUTS,
    "output_scores": _OUTPUTS,
}
# Values, beside None, at which they have no effect. They are accepted, as many scripts pass them.
_IDLE: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "repetition_penalty": (1.0,),
    "cache_implementation": ("static",),
    "use_cache": (True,),
    "max_length": (),
    "return_dict_in_generate": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_logits": (False,),
    "output_scores": (False,),
}


def is_idle(name: str, value: Any, config: BarkGenerationConfig) -> bool:
    """Whether it is a setting of transformers at a value without effect, such as pad_token_id at the end token's id."""
    end = config.semantic_config.eos_token_id
    values = (_IDLE | {"pad_token_id": (end,), "eos_token_id": (end,)}).get(_without_prefix(name))
    if values is None or not (value is None or isinstance(value, (bool, int, float, str))):
        return False
    return value is None or value in values


def why_refused(name: str) -> str | None:
    """The reason for refusing a setting of transformers; None for any other name."""
    return _REFUSED.get(_without_prefix(name))


def _without_prefix(name: str) -> str:
    """Strips a stage's prefix from the name, unless the full name is itself in _REFUSED."""
    prefix, _, short = name.partition("_")
    return short if prefix in STAGES and name not in _REFUSED else name
