"""Files that are whole or not there, and locks on them."""

from relprop.files.whole import OutputError, discard_part, put_between, replacement, written_whole

__all__ = ["OutputError", "discard_part", "put_between", "replacement", "written_whole"]
