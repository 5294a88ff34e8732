"""Op rules by family; importing this package registers them all."""

import graphprune.ops.attention
import graphprune.ops.attention_kernels
import graphprune.ops.contraction
import graphprune.ops.convolution
import graphprune.ops.creation
import graphprune.ops.elementwise
import graphprune.ops.equation
import graphprune.ops.frequency
import graphprune.ops.indexing
import graphprune.ops.joining
import graphprune.ops.normalization
import graphprune.ops.ordering
import graphprune.ops.products
import graphprune.ops.recurrent
import graphprune.ops.reduction
import graphprune.ops.reshaping
import graphprune.ops.scatter
import graphprune.ops.slicing
import graphprune.ops.softmax
import graphprune.ops.spatial
import graphprune.ops.torchvision
import graphprune.ops.weights  # noqa: F401 - this and the ones above register rules
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
    "known_overloads",
    "rewrite",
    "rewrite_for",
    "rule",
    "rule_for",
    "set_argument",
]
