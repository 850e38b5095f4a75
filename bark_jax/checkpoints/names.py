"""The naming schemes, one table each: a checkpoint's names on the left, ours on the right.

transformers and Suno name the same transformers differently, and so do transformers and the original EnCodec the same
codec. A network's table is chosen by `transformers_rules`, `suno_rules`, `encodec_rules` or `own_rules`.

Source: suno-ai/bark, bark/model.py and model_fine.py; facebookresearch/encodec, encodec/modules/; transformers 5.23,
models/{bark,encodec}/modeling_*.py.
"""

from collections.abc import Sequence

from bark_jax.checkpoints.rules import Rule, Use, rule
from bark_jax.checkpoints.transforms import CONV, LINEAR, TRANSPOSED_CONV, Axes, SummedBiases, WeightNorm
from bark_jax.config import EncodecConfig

_TRANSFORMERS_BLOCK = (
    rule("layers.{i}.layernorm_1.weight", "blocks.{i}.attention_norm.scale"),
    rule("layers.{i}.layernorm_1.bias", "blocks.{i}.attention_norm.bias"),
    rule("layers.{i}.attn.att_proj.weight", "blocks.{i}.attention.qkv.kernel", LINEAR),
    rule("layers.{i}.attn.att_proj.bias", "blocks.{i}.attention.qkv.bias"),
    rule("layers.{i}.attn.out_proj.weight", "blocks.{i}.attention.out.kernel", LINEAR),
    rule("layers.{i}.attn.out_proj.bias", "blocks.{i}.attention.out.bias"),
    rule("layers.{i}.layernorm_2.weight", "blocks.{i}.mlp_norm.scale"),
    rule("layers.{i}.layernorm_2.bias", "blocks.{i}.mlp_norm.bias"),
    rule("layers.{i}.mlp.in_proj.weight", "blocks.{i}.mlp.up.kernel", LINEAR),
    rule("layers.{i}.mlp.in_proj.bias", "blocks.{i}.mlp.up.bias"),
    rule("layers.{i}.mlp.out_proj.weight", "blocks.{i}.mlp.down.kernel", LINEAR),
    rule("layers.{i}.mlp.out_proj.bias", "blocks.{i}.mlp.down.bias"),
    rule("layernorm_final.weight", "final_norm.scale"),
    rule("layernorm_final.bias", "final_norm.bias"),
    rule("position_embeds_layer.weight", "position_embedding.embedding"),
)
_SUNO_BLOCK = (
    rule("transformer.h.{i}.ln_1.weight", "blocks.{i}.attention_norm.scale"),
    rule("transformer.h.{i}.ln_1.bias", "blocks.{i}.attention_norm.bias"),
    rule("transformer.h.{i}.attn.c_attn.weight", "blocks.{i}.attention.qkv.kernel", LINEAR),
    rule("transformer.h.{i}.attn.c_attn.bias", "blocks.{i}.attention.qkv.bias"),
    rule("transformer.h.{i}.attn.c_proj.weight", "blocks.{i}.attention.out.kernel", LINEAR),
    rule("transformer.h.{i}.attn.c_proj.bias", "blocks.{i}.attention.out.bias"),
    rule("transformer.h.{i}.ln_2.weight", "blocks.{i}.mlp_norm.scale"),
    rule("transformer.h.{i}.ln_2.bias", "blocks.{i}.mlp_norm.bias"),
    rule("transformer.h.{i}.mlp.c_fc.weight", "blocks.{i}.mlp.up.kernel", LINEAR),
    rule("transformer.h.{i}.mlp.c_fc.bias", "blocks.{i}.mlp.up.bias"),
    rule("transformer.h.{i}.mlp.c_proj.weight", "blocks.{i}.mlp.down.kernel", LINEAR),
    rule("transformer.h.{i}.mlp.c_proj.bias", "blocks.{i}.mlp.down.bias"),
    rule("transformer.ln_f.weight", "final_norm.scale"),
    rule("transformer.ln_f.bias", "final_norm.bias"),
    rule("transformer.wpe.weight", "position_embedding.embedding"),
)

TRANSFORMERS_CAUSAL = (
    *_TRANSFORMERS_BLOCK,
    rule("input_embeds_layer.weight", "token_embedding.embedding"),
    rule("lm_head.weight", "head.kernel", LINEAR),
    rule("layers.{i}.attn.bias", "blocks.{i}.attention", use=Use.CAUSAL_MASK),  # no bias, whatever its name says
)
SUNO_CAUSAL = (
    *_SUNO_BLOCK,
    rule("transformer.wte.weight", "token_embedding.embedding"),
    rule("lm_head.weight", "head.kernel", LINEAR),
    rule("transformer.h.{i}.attn.bias", "blocks.{i}.attention", use=Use.CAUSAL_MASK),
)

# Head q predicts codebook q + 1 and is that codebook's table. transformers 5 leaves it out when it saves.
TRANSFORMERS_FINE = (
    *_TRANSFORMERS_BLOCK,
    rule("input_embeds_layers.{q}.weight", "token_embeddings.{q}.embedding"),
    rule("lm_heads.{q}.weight", "token_embeddings.{q+1}.embedding", use=Use.COPY),
)
SUNO_FINE = (
    *_SUNO_BLOCK,
    rule("transformer.wtes.{q}.weight", "token_embeddings.{q}.embedding"),
    rule("lm_heads.{q}.weight", "token_embeddings.{q+1}.embedding", use=Use.COPY),
)

_TRANSFORMERS_CODEC = (
    rule("{at}.conv.bias", "{at}.conv.bias"),
    rule("{at}.lstm.weight_ih_l{n}", "{at}.lstm.{n}.input_kernel", LINEAR),
    rule("{at}.lstm.weight_hh_l{n}", "{at}.lstm.{n}.hidden_kernel", LINEAR),
    Rule(("{at}.lstm.bias_ih_l{n}", "{at}.lstm.bias_hh_l{n}"), "{at}.lstm.{n}.bias", SummedBiases()),
    rule("{at}.norm.weight", "{at}.norm.scale"),
    rule("{at}.norm.bias", "{at}.norm.bias"),
    rule("quantizer.layers.{q}.codebook.embed", "quantizer.codebooks.{q}.embedding"),
    rule("quantizer.layers.{q}.codebook.embed_avg", "quantizer.codebooks.{q}.embed_avg", use=Use.STATISTIC),
    rule("quantizer.layers.{q}.codebook.cluster_size", "quantizer.codebooks.{q}.cluster_size", use=Use.STATISTIC),
    rule("quantizer.layers.{q}.codebook.inited", "quantizer.codebooks.{q}.inited", use=Use.STATISTIC),
)
_ORIGINAL_QUANTIZER = (
    rule("quantizer.vq.layers.{q}._codebook.embed", "quantizer.codebooks.{q}.embedding"),
    rule("quantizer.vq.layers.{q}._codebook.embed_avg", "quantizer.codebooks.{q}.embed_avg", use=Use.STATISTIC),
    rule("quantizer.vq.layers.{q}._codebook.cluster_size", "quantizer.codebooks.{q}.cluster_size", use=Use.STATISTIC),
    rule("quantizer.vq.layers.{q}._codebook.inited", "quantizer.codebooks.{q}.inited", use=Use.STATISTIC),
)


def transformers_rules(network: str, config: EncodecConfig | object) -> Sequence[Rule]:
    """The names of transformers within one network, without the network's prefix."""
    if network == "codec_model":
        return _transformers_codec(config)
    return TRANSFORMERS_FINE if network == "fine_acoustics" else TRANSFORMERS_CAUSAL


def suno_rules(network: str) -> Sequence[Rule]:
    return SUNO_FINE if network == "fine_acoustics" else SUNO_CAUSAL


def own_rules() -> Sequence[Rule]:
    """The rule of this project's own files: a name is the name, and no array needs a change."""
    return (rule("{at}", "{at}"),)


def _transformers_codec(config: EncodecConfig) -> Sequence[Rule]:
    # Only a layer's place tells a transposed convolution from a plain one.
    places = [f"decoder.layers.{i}.conv" for i in _transposed_layers(config)]
    spread = [kernel for place in places for kernel in _kernel(place, place, TRANSPOSED_CONV, config)]
    return (*spread, *_kernel("{at}.conv", "{at}.conv", CONV, config), *_TRANSFORMERS_CODEC)


def encodec_rules(config: EncodecConfig) -> Sequence[Rule]:
    """The names of the original EnCodec, which wraps each convolution twice and says which ones are transposed."""
    rules = list(_ORIGINAL_QUANTIZER)
    for part in ("encoder", "decoder"):
        theirs, ours = part + ".model.{i}", part + ".layers.{i}"
        for within in ("", ".block.{j}", ".shortcut"):
            rules += _original_conv(theirs + within + ".conv", ours + within, CONV, config)
        rules += _original_conv(theirs + ".convtr", ours, TRANSPOSED_CONV, config)
        rules += _original_lstm(theirs, ours)
    return rules


def _original_conv(theirs: str, ours: str, axes: Axes, config: EncodecConfig) -> Sequence[Rule]:
    inner = theirs + theirs[theirs.rindex(".") :]  # x.conv.conv, x.convtr.convtr
    return (
        *_kernel(inner, ours + ".conv", axes, config),
        rule(inner + ".bias", ours + ".conv.bias"),
        rule(theirs + ".norm.weight", ours + ".norm.scale"),
        rule(theirs + ".norm.bias", ours + ".norm.bias"),
    )


def _original_lstm(theirs: str, ours: str) -> Sequence[Rule]:
    return (
        rule(theirs + ".lstm.weight_ih_l{n}", ours + ".lstm.{n}.input_kernel", LINEAR),
        rule(theirs + ".lstm.weight_hh_l{n}", ours + ".lstm.{n}.hidden_kernel", LINEAR),
        Rule((theirs + ".lstm.bias_ih_l{n}", theirs + ".lstm.bias_hh_l{n}"), ours + ".lstm.{n}.bias", SummedBiases()),
    )


def _kernel(theirs: str, ours: str, axes: Axes, config: EncodecConfig) -> tuple[Rule, ...]:
    """A convolution's kernel: plain, or weight-normed in either of torch's spellings (the newer one first)."""
    if config.norm_type != "weight_norm":
        return (rule(theirs + ".weight", ours + ".kernel", axes),)
    newer, older = theirs + ".parametrizations.weight.original", theirs + ".weight_"
    return (
        Rule((newer + "0", newer + "1"), ours + ".kernel", WeightNorm(axes)),
        Rule((older + "g", older + "v"), ours + ".kernel", WeightNorm(axes)),
    )


def _transposed_layers(config: EncodecConfig) -> range:
    """Places in `decoder.layers`: 3 is the first, after a convolution, the LSTM and an ELU; then residual blocks."""
    step = 2 + config.num_residual_layers
    return range(3, 3 + step * len(config.upsampling_ratios), step)
