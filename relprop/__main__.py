"""``python -m relprop``: the command line where no script is installed."""

from relprop.cli import app

app(prog_name="relprop")
