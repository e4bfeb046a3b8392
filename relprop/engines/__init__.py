"""Evaluations spread over worker processes or a batch system, as shards that are joined in the end."""

from relprop.engines.errors import EngineError
from relprop.engines.spread import evaluate

__all__ = ["EngineError", "evaluate"]
