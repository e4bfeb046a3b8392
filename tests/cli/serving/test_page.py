"""The page of ``relprop app``: what it binds to, and in a browser a picture dropped on it."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relprop.cli import app, serve
from relprop.cli.serving import interface
from relprop.cli.serving.answers import Respondent
from relprop.models import load_classifier
from tests.helpers.pages import chromium

OPENED = ["--host", "0.0.0.0", "--largest", "3"]


def test_without_gradio_the_extra_is_named(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app", "--model", "own:make"])
    assert result.exit_code == 1
    assert result.stderr == 'relprop: the page needs gradio: pip install "relprop[app]"\n'


@pytest.mark.parametrize(("arguments", "host", "most"), [([], "127.0.0.1", 20_000_000), (OPENED, "0.0.0.0", 3_000_000)])
def test_it_is_served_to_this_machine_alone_unless_told(desk, monkeypatch, arguments, host, most):
    launched = {}

    class Page:
        def launch(self, **options):
            launched.update(options)

    class Theme:
        class themes:  # noqa: N801 - as Gradio calls it
            Default = dict

    monkeypatch.setattr(interface, "require_gradio", lambda: Theme)
    monkeypatch.setattr(interface, "make_page", lambda respondent: Page())
    result = CliRunner().invoke(app, ["app", "--model", "own:make", "--port", "7999", *arguments])
    assert result.exit_code == 0, result.output
    assert (launched["server_name"], launched["server_port"], launched["max_file_size"]) == (host, 7999, most)
    assert launched["share"] is False
    assert ("others can open it" in result.stdout) == (host != serve.LOCALHOST)


@pytest.mark.full
def test_a_picture_is_dropped_on_it(desk, tmp_path):
    pytest.importorskip("gradio", reason='the page needs pip install "relprop[app]"')
    Path("broken<b>.jpg").write_bytes(b"no picture")
    labels = tmp_path / "names.txt"
    labels.write_text("<script>alert(1)</script>\ntwo\nthree\nfour\nfive\n")
    classifier = load_classifier("own:make", labels=labels)
    page_made = interface.make_page(Respondent(classifier, {"name": "own:make"}, tmp_path))
    said = []

    def outside(url):
        return not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))

    _, address, _ = page_made.launch(
        server_name=serve.LOCALHOST, prevent_thread_lock=True, quiet=True, ssr_mode=False, theme=interface.plain_theme()
    )
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda request: said.append(request.url) if outside(request.url) else None)
            page.goto(address)
            page.set_input_files("input[type=file] >> nth=0", "cat.jpg")
            page.wait_for_selector(".verdict")
            assert page.locator(".verdict").count() == 1
            assert "colours saturate" in page.text_content(".numbers")
            with page.expect_download() as download:
                page.click("text=Download the PNG")
            assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    finally:
        page_made.close()
    assert said == [], json.dumps(said)
