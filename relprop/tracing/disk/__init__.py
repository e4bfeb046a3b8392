"""Captured graphs on disk, so that another process need not trace the same model again."""
