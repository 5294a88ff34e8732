"""Op rules by family; importing this package registers them all."""

from graphprune.ops import (
    attention,
    contraction,
    convolution,
    creation,
    elementwise,
    movement,
    normalization,
    reduction,
    spatial,
)
from graphprune.ops.registry import (
    OpCall,
    Result,
    UnsupportedCall,
    known_overloads,
    rewrite,
    rewrite_for,
    rule,
    rule_for,
)
from graphprune.ops.resize import Resize, argument, set_argument

__all__ = [
    "OpCall",
    "Resize",
    "Result",
    "UnsupportedCall",
    "argument",
    "attention",
    "contraction",
    "convolution",
    "creation",
    "elementwise",
    "known_overloads",
    "movement",
    "normalization",
    "reduction",
    "rewrite",
    "rewrite_for",
    "rule",
    "rule_for",
    "set_argument",
    "spatial",
]
