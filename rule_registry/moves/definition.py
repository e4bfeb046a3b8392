"""The rule set ``structural``, which all others are built on: every rule in it is a move."""

from rule_registry.registry import ROOT, define

STRUCTURAL = ROOT
define(STRUCTURAL, "moves and copies, shared by all rule sets", complex=True, moves=True, linear=True)
