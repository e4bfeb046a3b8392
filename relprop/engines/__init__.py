"""Engines that spread a run over processes, a cluster, a batch system: shards, which are joined in the end."""

from relprop.engines.errors import EngineError
from relprop.engines.spread import evaluate

__all__ = ["EngineError", "evaluate"]
