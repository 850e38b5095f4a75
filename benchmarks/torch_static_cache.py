"""A fast torch baseline for the semantic stage: static KV cache, sampling inside one compiled graph a step.

On a GPU torch.compile uses CUDA graphs (mode="reduce-overhead"), on a CPU the default mode. Other stages are missing.
"""

from typing import Any

import torch
from torch import nn

from benchmarks.contenders import TEMPERATURE, on_cuda
from benchmarks.models import make_config

N_SLOTS = 1024
N_PROMPT = 257


class Block(nn.Module):
    """A transformer block with a static KV cache of N_SLOTS slots."""

    def __init__(self, width: int, n_heads: int, n_rows: int):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(n_rows, n_heads, N_SLOTS, width // n_heads))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [B, T, D] at positions [T]; writes their keys and values into the cache. mask: bool [T, N_SLOTS]."""
        B, T, D = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        self.keys[:, :, positions] = k
        self.values[:, :, positions] = v
        y = nn.functional.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        return x + self.down(nn.functional.gelu(self.up(self.mlp_norm(x))))


class Network(nn.Module):
    """The semantic network with sampling, in the sizes of a published config."""

    def __init__(self, size: str, n_rows: int):
        super().__init__()
        config = make_config(size).semantic_config
        self.tokens = nn.Embedding(config.input_vocab_size, config.hidden_size)
        self.positions = nn.Embedding(N_SLOTS, config.hidden_size)
        blocks = (Block(config.hidden_size, config.num_heads, n_rows) for _ in range(config.num_layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.hidden_size, bias=False)
        self.head = nn.Linear(config.hidden_size, config.output_vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Draws the token [B, 1] after tokens [B, T], by the exponential form of Gumbel's trick.

        torch.multinomial would synchronise with the host at every step.
        """
        mask = torch.arange(N_SLOTS, device=tokens.device)[None] <= positions[:, None]
        x = self.tokens(tokens) + self.positions(positions)
        for block in self.blocks:
            x = block(x, positions, mask)
        probabilities = torch.softmax(self.head(self.norm(x[:, -1])).float() / TEMPERATURE, dim=-1)
        return torch.argmax(probabilities / torch.empty_like(probabilities).exponential_(1), dim=-1, keepdim=True)


class TorchCompile:
    """torch.compile on the network above; has the semantic stage only."""

    name = "torch.compile"

    def __init__(self, size: str, dtype: str, n_rows: int):
        self._device = "cuda" if on_cuda(torch) else "cpu"
        torch.manual_seed(0)
        torch._dynamo.reset()
        with torch.device(self._device):
            self._network = Network(size, n_rows).to(getattr(torch, dtype)).eval()
        mode = {"mode": "reduce-overhead"} if self._device == "cuda" else {}
        self._step = torch.compile(self._network, fullgraph=True, **mode)
        self._prompt = torch.randint(0, 1000, (n_rows, N_PROMPT), device=self._device)

    def semantic(self, n_tokens: int) -> None:
        """As in `Contender`."""
        with torch.inference_mode():
            self._generate(n_tokens)
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _generate(self, n_tokens: int) -> Any:
        positions = torch.arange(N_PROMPT, device=self._device)
        tokens = self._network(self._prompt, positions)
        position = positions[-1:] + 1
        for _ in range(n_tokens - 1):
            tokens = self._step(tokens, position).clone()  # the graph's own output is overwritten by the next step
            position = position + 1
        return tokens
