"""The page where pictures are dropped on a model, made with Gradio."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import rule_registry
from relprop.cli.serving.answers import Answer, Question, Respondent
from relprop.errors import RelpropError
from relprop.extras import extra
from relprop.pages.thumbnails import data_uri

NOT_BESIDE = "nothing"
STYLE = """
.caution { border-left: 4px solid #9c2f12; padding: .35rem .9rem; font-weight: 600; }
.caution { background: #fdece6; color: #7d2409; }
.dark .caution { background: #3a2119; color: #ffb199; }
.trouble { border-left: 4px solid #9c2f12; padding: .35rem .9rem; white-space: pre-wrap; }
.trio { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; margin: .75rem 0; }
.trio figure { margin: 0; }
.trio img { width: 100%; border-radius: 6px; display: block; }
.trio figcaption { font-size: .875rem; opacity: .85; margin-top: .3rem; }
.verdict { font-size: 1.25rem; font-weight: 650; margin: 0; }
.numbers { white-space: pre-line; font-size: .9rem; opacity: .85; }
footer { display: none !important; }
"""


class ServingError(RelpropError, OSError):
    """A page that can't be served at an address."""


def require_gradio() -> Any:
    """Return Gradio.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    with extra("app", "the page"):
        import gradio
    return gradio


def make_page(respondent: Respondent) -> Any:
    """Return the page as Gradio's blocks, not yet served.

    Raises
    ------
    MissingExtraError
        If Gradio is not installed.
    """
    gr = require_gradio()
    labels = respondent.classifier.labels
    classes = [(f"{label} ({index})", str(index)) for index, label in enumerate(labels)]
    with gr.Blocks(title=f"relprop: {respondent.classifier.name}", analytics_enabled=False) as page:
        gr.HTML(f"<h1>What does {escape(respondent.classifier.name)} see?</h1>")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                picture = gr.Image(label="Drop a picture", type="filepath", sources=["upload", "clipboard"], height=300)
                run = gr.Button("Explain", variant="primary")
                target = gr.Dropdown([("the predicted one", ""), *classes], value="", label="Class")
                contrast = gr.Dropdown(
                    [
                        ("as the rule set has it", ""),
                        ("all other classes alike", "rest"),
                        ("the others as probable as they are (log-odds)", "log-odds"),
                        ("nothing", "none"),
                        *classes,
                    ],
                    value="",
                    label="Contrast: compared with",
                )
                names = rule_registry.names()
                rules = gr.Dropdown(names, value="abslrp", label="Rule set")
                beside = gr.Dropdown([NOT_BESIDE, *names], value=NOT_BESIDE, label="Beside it")
                layer = gr.Dropdown([("the picture", ""), *respondent.layers], value="", label="Relevance at")
            with gr.Column(scale=5, min_width=320):
                trouble = gr.HTML(visible=False)
                said = gr.Label(label="What the model says", num_top_classes=5, visible=False)
                with gr.Row():
                    panels = [_panel(gr), _panel(gr)]

        def answer(path: str | None, *chosen: str) -> list[Any]:
            return _answer(gr, respondent, path, chosen)

        outputs = [trouble, said, *(part for panel in panels for part in panel)]
        inputs = [picture, target, contrast, rules, beside, layer]
        for event in (picture.upload, run.click):
            event(answer, inputs, outputs, concurrency_limit=1, api_visibility="private")
    return page


def plain_theme() -> Any:
    """Return a theme with the fonts of the system: its own would be asked of a network."""
    return require_gradio().themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["monospace"], primary_hue="blue"
    )


def serve(page: Any, host: str, port: int, most_bytes: int) -> None:
    """Serve the page until Ctrl-C; uploads above a size are refused.

    Raises
    ------
    ServingError
        If the address is taken, or is none of this machine's.
    """
    try:
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=most_bytes,
            share=False,
            ssr_mode=False,
            footer_links=[],
            theme=plain_theme(),
            css=STYLE,
        )
    except (OSError, OverflowError) as error:
        raise ServingError(f"cannot serve a page at {host}:{port}: {error}; name another --port or --host") from error


def _panel(gr: Any) -> list[Any]:
    """Lay out one answer: words and pictures, and what can be downloaded."""
    with gr.Column(visible=False, min_width=320) as column:
        shown = gr.HTML()
        png = gr.DownloadButton("Download the PNG")
        with gr.Accordion("Python that makes the same", open=False):
            lines = gr.Code(language="python", interactive=False, buttons=["copy", "download"])
    return [column, shown, png, lines]


def _answer(gr: Any, respondent: Respondent, path: str | None, chosen: tuple[str, ...]) -> list[Any]:
    """Return what every part of the page shows."""
    if path is None:
        return _trouble(gr, "drop a picture first")
    target, contrast, rules, beside, layer = chosen
    try:
        said = respondent.probabilities(Path(path))
        answers = [
            respondent.answer(
                Path(path), Question(name, int(target) if target else None, contrast or None, layer or None)
            )
            for name in (rules, beside)
            if name != NOT_BESIDE
        ]
    except RelpropError as error:
        return _trouble(gr, str(error))
    shown = [part for one in answers for part in _parts(gr, one)]
    if len(answers) == 1:
        shown += _hidden(gr)
    return [gr.update(visible=False), gr.update(value=dict(said), visible=bool(said)), *shown]


def _parts(gr: Any, answer: Answer) -> list[Any]:
    """Return what a panel shows of an answer; Gradio's own pictures have no words for those who can't see them."""
    warning = f'<p class="caution">{escape(answer.caution)}</p>' if answer.caution else ""
    pictures = "".join(
        f'<figure><img src="{data_uri(image)}" alt="{escape(f"{answer.title}: {name}")}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, image in (
            ("what the model sees", answer.seen),
            ("its relevance", answer.map),
            ("smoothed, over the picture", answer.overlay),
        )
    )
    return [
        gr.update(visible=True),
        f'<h2 class="verdict">{escape(answer.title)}</h2>{warning}<div class="trio">{pictures}</div>'
        f'<p class="numbers">{escape(answer.caption)}</p>',
        gr.update(value=str(answer.png)),
        answer.lines,
    ]


def _hidden(gr: Any) -> list[Any]:
    return [gr.update(visible=False), *[gr.skip()] * 3]


def _trouble(gr: Any, message: str) -> list[Any]:
    """Show an error as it is, in place of answers."""
    words = gr.update(value=f'<p class="trouble" role="alert">{escape(message)}</p>', visible=True)
    return [words, gr.update(visible=False), *_hidden(gr), *_hidden(gr)]
