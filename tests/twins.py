"""Random torch networks from `transformers` with the same weights as ours. Imports torch only when one is built."""

import numpy as np
from flax import nnx
from networks import as_dtype

from bark_jax.config import EncodecConfig
from bark_jax.stage_models import EncodecModel


def encodec_twins(config: EncodecConfig, seed: int = 0):
    """(torch model, our model) of the same random weights, with full codebooks and audible output."""
    import torch
    import transformers

    torch.manual_seed(seed)
    torch_model = transformers.EncodecModel(transformers.EncodecConfig(**config.to_dict())).eval()
    with torch.no_grad():
        for name, parameter in torch_model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
            elif name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.mul_(2)  # some layers at their initial gain are nearly silent
        for layer in torch_model.quantizer.layers:
            layer.codebook.embed.normal_()  # all zeros when new
    model = abstract_encodec(config)
    copy_encodec(torch_model, model)
    return torch_model, model


def random_encodec(config: EncodecConfig) -> EncodecModel:
    """Our model with random weights that numpy draws: it compiles nothing, unlike the initialisers."""
    rng, model = np.random.default_rng(0), abstract_encodec(config)
    _fill(model, lambda path, shape: rng.normal(size=shape) / max(1, np.prod(shape[:-1])) ** 0.5)
    return model


def abstract_encodec(config: EncodecConfig) -> EncodecModel:
    """Our model with shapes for weights."""
    return nnx.eval_shape(lambda: EncodecModel(config, rngs=nnx.Rngs(0)))


def copy_encodec(torch_model, model: EncodecModel) -> None:
    """Sets each of our parameters from the torch module at the same path."""
    _fill(model, lambda path, shape: _find(torch_model, path))


def _fill(model: EncodecModel, find) -> None:
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    filled = [(path, variable.replace(as_dtype(find(path, variable.shape), np.float32))) for path, variable in state]
    nnx.update(model, nnx.from_flat_state(filled))


def _find(torch_model, path: tuple) -> np.ndarray:
    *parents, name = (str(part) for part in path)
    if parents[0] == "quantizer":
        return _as_array(torch_model.quantizer.layers[int(parents[-1])].codebook.embed)
    if "lstm" in parents:
        torch_lstm = torch_model.get_submodule(".".join(parents[:-1]))
        return _find_lstm(torch_lstm, parents[-1], name)
    module = torch_model.get_submodule(".".join(parents))
    if name == "kernel":
        return _as_array(module.weight.permute((2, 0, 1) if "Transpose" in str(module) else (2, 1, 0)))
    return _as_array(module.weight if name == "scale" else module.bias)


def _find_lstm(torch_lstm, layer: str, name: str) -> np.ndarray:
    if name == "bias":
        return _as_array(getattr(torch_lstm, f"bias_ih_l{layer}") + getattr(torch_lstm, f"bias_hh_l{layer}"))
    torch_name = {"input_kernel": "weight_ih_l", "hidden_kernel": "weight_hh_l"}[name] + layer
    return _as_array(getattr(torch_lstm, torch_name).T)


def _as_array(tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()
