"""Executed guides to tasks."""
