"""A page on which people dub: upload or record, look at before and after, download. It needs no network."""

from __future__ import annotations

import html
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by Gradio when it is imported

import gradio as gr

from stsa_lightning.app.jobs import KEPT_S, Jobs, in_words
from stsa_lightning.app.limits import Limits
from stsa_lightning.app.overlay import HeatmapFilm
from stsa_lightning.app.rest import beside_the_page
from stsa_lightning.app.same_origin import TrustedHosts, same_origin_only
from stsa_lightning.data.sample import render_sample
from stsa_lightning.dubbing import Dubber, DubReport
from stsa_lightning.dubbing.result_file import disk_errors_named
from stsa_lightning.media.audio import load_audio, write_wav
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import name_bytes, shortened
from stsa_lightning.utils.memory import release_free_memory
from stsa_lightning.utils.weights import cache_dir

SAMPLES = (1, 2, 3)

_SYSTEM_FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
# The page may ask this server alone, whatever a component of Gradio's would like to fetch.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_CSS = """
.gradio-container {max-width: 1200px !important; margin: auto}
/* Gradio trims videos by a program from the network. */
#video button[title^="Trim"], #video button[title^="Reset"] {display: none}
#samples {align-items: center; flex-wrap: nowrap}
#samples p {white-space: nowrap; font-size: .9em; opacity: .75}
@media (max-width: 600px) {#samples {flex-wrap: wrap}}
#note {opacity: .75; font-size: .9em}
#message {min-height: 64px}
.message {border-radius: 8px; padding: 10px 14px; border-left: 4px solid}
.message.success {background: #e8f5ec; border-color: #2e8b57; color: #14432a}
.message.failure {background: #fdecea; border-color: #c0392b; color: #5f1a13}
"""
_PLAY = """() => {
  const players = [...document.querySelectorAll('#results video')];
  players.forEach((player, i) => { player.currentTime = 0; player.muted = !player.closest('#after'); });
  players.forEach(player => player.play());
}"""


@dataclass(frozen=True)
class Dubbed:
    """What the page shows: the dubbed video, the same with its heatmaps drawn in, and what is to be said."""

    video: Path
    heatmaps: Path
    report: DubReport


# What a dub says that it is doing -> where that begins and ends on the page's bar.
_SPANS = {"finding the face": (0.02, 0.3), "re-rendering": (0.3, 0.9)}


class Desk:
    """What stands behind the page's buttons: one dub after the other.

    Results of the dub before go from `folder` when the next one starts, for Gradio has its own copy by then.
    """

    def __init__(self, dubber: Dubber, folder: Path, limits: Limits) -> None:
        self.dubber, self.folder, self.limits = dubber, folder, limits
        self.work, self._closed = threading.Lock(), False

    def dub(self, video: str | None, speech: str | None, progress: Callable[[float, str], None]) -> Dubbed:
        """Dub, and draw the heatmaps; `progress` is called with the part done, 0 to 1, and what is being done.

        Raises:
            UserError, FileNotFoundError: in words that name the files as people know them.
        """
        if not video or not speech:
            missing = " and ".join(name for name, path in (("a video", video), ("speech", speech)) if not path)
            raise UserError(f"Give {missing} first, or pick a sample.")
        with self.work:
            shutil.rmtree(self.folder, ignore_errors=True)
            try:
                return self._dub(Path(video), Path(speech), progress)
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
            finally:
                release_free_memory()

    def _dub(self, source: Path, words: Path, progress: Callable[[float, str], None]) -> Dubbed:
        self._go_on()
        self.folder.mkdir(parents=True)
        progress(0.0, "looking at the files")
        self.limits.check(source, words)
        stem = shortened(source.stem, name_bytes(self.folder) - len("-heatmaps.mp4"))
        out, drawn = (self.folder / f"{stem}-{name}.mp4" for name in ("dubbed", "heatmaps"))

        def report_progress(doing: str, frame: int, frames: int) -> None:
            self._go_on()
            first, last = _SPANS[doing]
            progress(first + (last - first) * frame / max(frames, 1), doing)

        film = HeatmapFilm()
        report = self.dubber.dub(source, words, out, progress=report_progress, observe=film)
        progress(0.9, "drawing the heatmaps")
        with disk_errors_named(drawn):
            film.write(out, drawn)
        return Dubbed(out, drawn, report)

    def _go_on(self) -> None:
        """Raise UserError once nobody waits for results any more."""
        if self._closed:
            raise UserError("The page was closed.")

    def close(self) -> None:
        self._closed = True
        with self.work:
            shutil.rmtree(self.folder, ignore_errors=True)

    def sample(self, number: int) -> tuple[str, str]:
        """A rendered speaker (1 to 3) and another one's sentence; rendered when first asked for, a few seconds."""
        face, voice = _rendered(number), _rendered(number % len(SAMPLES) + 1)
        speech = voice.with_suffix(".wav")
        if not speech.is_file():
            write_wav(speech, load_audio(voice))
        return str(face), str(speech)


def _rendered(number: int) -> Path:
    return render_sample(cache_dir() / "sample" / f"{number}", speakers=1, clips=1, seed=100 + number)[0]


def build_page(desk: Desk) -> gr.Blocks:
    """The page: components, and what happens when their buttons are pressed."""
    limits = desk.limits
    with gr.Blocks(title="stsa: dub a video", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        gr.Markdown(
            "# Dub a video\nA video of a speaking face and new speech go in; the same video, saying the new speech, "
            f"comes out. Up to {limits.seconds:g} s and {limits.megabytes} MB each. Everything stays on this machine."
        )
        with gr.Row(equal_height=True):
            video = gr.Video(label="Video of a speaking face", sources=["upload"], elem_id="video", height=300)
            with gr.Column():
                speech = gr.Audio(
                    label="New speech", sources=["upload", "microphone"], type="filepath", elem_id="speech", buttons=[]
                )
                with gr.Row(elem_id="samples"):
                    gr.Markdown("Nothing at hand?", min_width=130)
                    samples = [gr.Button(f"Sample {i}", size="sm", min_width=60, elem_id=f"sample{i}") for i in SAMPLES]
                start = gr.Button("Dub", variant="primary", size="lg", elem_id="start")
        message = gr.HTML(elem_id="message")
        with gr.Row(elem_id="results", visible=False) as results:
            before = gr.Video(label="Before", interactive=False, elem_id="before", buttons=[])
            after = gr.Video(label="After", interactive=False, elem_id="after", buttons=[])
            heatmaps = gr.Video(
                label="What drives it: predicted heatmaps", interactive=False, elem_id="heatmaps", buttons=[]
            )
        with gr.Row(visible=False) as actions:
            together = gr.Button("Play side by side", elem_id="together")
            download = gr.DownloadButton("Download the dubbed video", variant="primary", elem_id="download")
        gr.Markdown(
            "Dubbing puts words into people's mouths: ask the person, and say that the video was made so.",
            elem_id="note",
        )

        def dub_on_the_page(video: str | None, speech: str | None, bar: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
            shown = gr.update(visible=True)
            try:
                done = desk.dub(video, speech, lambda part, doing: bar(part, desc=doing))
            except Exception as error:
                hidden = gr.update(visible=False)
                return [_failure(error, video, speech), hidden, hidden, None, None, None, None]
            videos = [video, *map(str, (done.video, done.heatmaps, done.video))]
            return [_success(done.report), shown, shown, *videos]

        def dub_for_programs(video: str | None, speech: str | None) -> tuple[str | None, dict[str, Any]]:
            try:
                done = desk.dub(video, speech, lambda part, doing: None)
            except Exception as error:
                return None, {"error": _in_words(error, video, speech)}
            return str(done.video), {**done.report.json(), "out": done.video.name}

        outputs = [message, results, actions, before, after, heatmaps, download]
        hide = [gr.HTML(value=""), gr.Row(visible=False), gr.Row(visible=False)]
        start.click(
            lambda: hide, None, outputs[:3], queue=False, show_progress="hidden", api_visibility="private"
        ).then(
            dub_on_the_page,
            [video, speech],
            outputs,
            concurrency_limit=1,
            show_progress_on=message,
            api_visibility="private",
        )
        for number, button in zip(SAMPLES, samples, strict=True):
            button.click(
                lambda number=number: desk.sample(number),
                None,
                [video, speech],
                concurrency_limit=1,
                api_visibility="private",
            )
        together.click(None, js=_PLAY)
        # For `gradio_client`: Client(url).predict(video, speech, api_name="/dub").
        gr.Button(visible=False).click(
            dub_for_programs,
            [video, speech],
            [gr.Video(visible=False), gr.JSON(visible=False)],
            concurrency_limit=1,
            api_name="dub",
        )
    return page


def _success(report: DubReport) -> str:
    whole = "All" if report.faces == report.frames else f"{report.faces} of"
    passed = "".join(f"; {count} passed through: {reason}" for reason, count in report.passed.items())
    line = (
        f"{whole} {report.frames} frames re-rendered{passed}. {report.seconds:.1f} s of "
        f"{report.width} x {report.height} "
        f"at {float(report.fps):g} frames/s, in {report.elapsed_s:.0f} s."
    )
    lines = [line, *(f"{warning[:1].upper()}{warning[1:]}." for warning in report.warnings)]
    return f'<div class="message success">{"<br>".join(map(html.escape, lines))}</div>'


def _failure(error: Exception, *paths: str | None) -> str:
    return f'<div class="message failure" role="alert">{html.escape(_in_words(error, *paths))}</div>'


def _in_words(error: Exception, *paths: str | None) -> str:
    names = {path: Path(path).name for path in paths if path}
    return in_words(error, names, " The terminal in which `stsa app` runs says more.")


def serve(dubber: Dubber, limits: Limits, folder: Path, trusted: TrustedHosts, port: int = 7860) -> None:
    """Serve the page until Ctrl-C or SIGTERM; a dub that is at work then is given up.

    Results go to `folder`, uploads to the one that `GRADIO_TEMP_DIR` named when Gradio was imported.

    Raises:
        UserError: the address cannot be had.
    """
    # Gradio copies what it finds outside of its own folder there, and removes that in time.
    desk = Desk(dubber, folder / "results", limits)
    jobs = Jobs(dubber, folder / "jobs", limits, desk.work)
    page = build_page(desk)
    page.queue(max_size=limits.waiting)
    host = trusted.host
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=f"{limits.megabytes}mb",
            allowed_paths=[str(desk.folder), str(cache_dir() / "sample")],
            theme=gr.themes.Soft(font=_SYSTEM_FONTS, font_mono=("ui-monospace", "Consolas", "monospace")),
            css=_CSS,
            head=f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            app_kwargs={"middleware": [*same_origin_only(trusted), beside_the_page(jobs)]},
        )
    except OSError as error:
        jobs.close()
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({error}); choose another") from error
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped; uploads and results are removed")
    finally:
        desk.close()
        jobs.close()
        page.close(verbose=False)
