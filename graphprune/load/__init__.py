"""Load: from what the user typed after MODEL to a network that runs on example inputs."""

from graphprune.load.hashing import model_hash
from graphprune.load.loader import load_model
from graphprune.load.source import LoadedModel, ModelSource

__all__ = ["LoadedModel", "ModelSource", "load_model", "model_hash"]
