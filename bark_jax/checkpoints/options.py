"""Arguments of transformers' `from_pretrained` that this package does not have: ignored, or refused with a reason.

Ignored are those that would change nothing, those that ask for what happens here anyway, and any that is None or
False. Any other is refused, as the program that gives it relies on its effect.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bark_jax.errors import InputError, quoted

_CHECKPOINT = "a checkpoint is opened by what it holds"
_DOWNLOAD = frozenset({"resume_download", "mirror", "trust_remote_code", "_commit_hash", "_fast_init"})
_DOWNLOAD_REFUSED = {
    "proxies": "set HTTPS_PROXY, which the Hub's client reads",
    "subfolder": "give the folder itself",
    "use_auth_token": "use token",
}

MODEL_IGNORED = _DOWNLOAD | {"low_cpu_mem_usage", "offload_state_dict", "use_safetensors", "weights_only"}
MODEL_REFUSED: Mapping[str, str] = _DOWNLOAD_REFUSED | {
    "config": "the sizes are those of the model's config.json",
    "device_map": "the networks are on JAX's default device: `with jax.default_device(...)`, or enable_cpu_offload()",
    "from_flax": _CHECKPOINT,
    "from_tf": _CHECKPOINT,
    "generation_config": "give its settings to generate, or write them into generation_config.json",
    "gguf_file": "GGUF files are not read",
    "ignore_mismatched_sizes": "every array has to have its parameter's shape",
    "key_mapping": "every array has to have its name",
    "load_in_4bit": "there are no weights of four bits; on a CPU use dtype='int8'",
    "load_in_8bit": "use dtype='int8'",
    "max_memory": "enable_cpu_offload() keeps one network on the accelerator at a time",
    "offload_folder": "enable_cpu_offload() keeps the networks in host memory",
    "output_loading_info": "an array without a parameter, or a parameter without an array, is an error here",
    "quantization_config": "the only quantization is dtype='int8'",
    "state_dict": "write it into a folder first: bark-jax convert",
    "tp_plan": "use sharding=bark_jax.tensor_parallel(mesh)",
    "use_flash_attention_2": "use attn_implementation='auto', the default",
    "variant": "give the folder that has the files",
}

PROCESSOR_IGNORED = _DOWNLOAD | {
    "clean_up_tokenization_spaces",
    "from_slow",
    "legacy",
    "model_max_length",
    "tokenizer_type",
    "use_fast",
}
PROCESSOR_REFUSED: Mapping[str, str] = _DOWNLOAD_REFUSED | {
    "do_lower_case": "it is read from tokenizer_config.json",
    "pad_token": "padding is masked, so its name changes nothing",
    "padding_side": "rows are padded on the right, as the model reads them",
    "strip_accents": "it is read from tokenizer_config.json",
    "tokenize_chinese_chars": "it is read from tokenizer_config.json",
    "truncation_side": "a text is cut at its end",
    "unk_token": "it comes from the tokenizer's own files",
}
# Values of refused arguments that are accepted, as they ask for what happens here anyway.
_DEFAULTS = {"device_map": ("auto",), "padding_side": ("right",), "truncation_side": ("right",), "subfolder": ("",)}

# Arguments that name a special token; the tokenizer adds it if it lacks it.
CONTROL_TOKENS = ("bos_token", "eos_token", "sep_token", "cls_token", "mask_token")
CONTROL_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


def _is_default(name: str, value: Any) -> bool:
    return isinstance(value, str) and value in _DEFAULTS.get(name, ())


def check_options(
    given: Mapping[str, Any],
    load: Callable[..., Any],
    ignored: Collection[str],
    refused: Mapping[str, str],
    others: Collection[str] = (),
) -> None:
    """Raises InputError for an argument that is not ignored; for an unknown name it suggests the nearest known ones.

    Args:
      given: the arguments that `load` was called with beyond its own.
      load: the function that was called.
      ignored: names that are accepted without effect.
      refused: names that are refused, each with the reason or a remedy.
      others: names that `load` takes beside its parameters.
    """
    taken = [*(name for name in inspect.signature(load).parameters if name != "options"), *others]
    for name, value in given.items():
        has_effect = value is not None and value is not False and not _is_default(name, value)
        if name in ignored or (name in refused and not has_effect):
            continue
        if name in refused:
            raise InputError(f"from_pretrained takes no {name} ({quoted(value)}) here: {refused[name]}")
        nearest = difflib.get_close_matches(name[:64], [*taken, *refused], n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"there are {', '.join(taken)}"
        raise InputError(f"from_pretrained has no argument {quoted(name)}; {hint}")


def control_tokens(given: Mapping[str, Any]) -> list[str]:
    """The texts of the special tokens among the arguments `given`. Raises InputError for one that is no text."""
    tokens = []
    for name, value in given.items():
        values = value if name in CONTROL_TOKEN_LISTS and isinstance(value, (list, tuple)) else [value]
        for token in values:
            token = getattr(token, "content", token)  # an AddedToken
            if not isinstance(token, str) or not token.strip():
                raise InputError(f"{name} is {quoted(value)}, expected the text of a token")
            tokens.append(token)
    return tokens
