"""Hugging Face's language and vision models from tiny configurations."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

_VOCABULARY = 100
_TOKENS = 16

_ARCHITECTURES = ("bert", "gpt2", "llama", "t5", "vit")
_ATTENTION = ("eager", "sdpa")

NAMES: tuple[str, ...] = tuple(f"{name}-{kind}" for name in _ARCHITECTURES for kind in _ATTENTION)


class Logits(nn.Module):
    """A model whose forward takes positional tensors and returns its logits alone."""

    def __init__(self, model: nn.Module, *names: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self._names = names
        self._options = options

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """Call the model with its inputs by name."""
        named = dict(zip(self._names, (first, second), strict=False))
        logits: torch.Tensor = self.model(**named, **self._options).logits
        return logits


def build(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return a model and its inputs for a name of :data:`NAMES`."""
    architecture, _, attention = name.partition("-")
    return _BUILDERS[architecture](attention)


def _tokens() -> torch.Tensor:
    return torch.randint(0, _VOCABULARY, (2, _TOKENS), generator=torch.Generator().manual_seed(1))


def _bert(attention: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    hf: Any = import_module("transformers")

    config = hf.BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        attn_implementation=attention,
    )
    model = Logits(hf.BertForSequenceClassification(config), "input_ids", "attention_mask")
    return model, (_tokens(), torch.ones(2, _TOKENS, dtype=torch.int64))


def _gpt2(attention: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    hf: Any = import_module("transformers")

    config = hf.GPT2Config(
        vocab_size=_VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    return Logits(hf.GPT2LMHeadModel(config), "input_ids", use_cache=False), (_tokens(),)


def _llama(attention: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    hf: Any = import_module("transformers")

    config = hf.LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
    )
    return Logits(hf.LlamaForCausalLM(config), "input_ids", use_cache=False), (_tokens(),)


def _t5(attention: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    hf: Any = import_module("transformers")

    config = hf.T5Config(
        vocab_size=_VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        attn_implementation=attention,
    )
    model = hf.T5ForConditionalGeneration(config)
    wrapped = Logits(model, "input_ids", "decoder_input_ids", use_cache=False)
    return wrapped, (_tokens(), _tokens().flip(1))


def _vit(attention: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    hf: Any = import_module("transformers")

    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=10,
        attn_implementation=attention,
    )
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return Logits(hf.ViTForImageClassification(config), "pixel_values"), (images,)


_BUILDERS: dict[str, Callable[[str], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
    "vit": _vit,
}
