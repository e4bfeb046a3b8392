"""Operations that only move, copy, drop or write entries, whose relevance moves back exactly in every rule set."""

from rule_registry.moves import structural, writes

__all__ = ["structural", "writes"]
