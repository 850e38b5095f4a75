"""The page of `bark-jax serve`, in Chromium: type, play, hear, copy, and what it says when something fails."""

import io
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from deadlines import HANG_S

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import soundfile
from serve_stub import PART, StubService, noise, serving, settings, voice_of

from bark_jax.audio.files import to_pcm16
from bark_jax.generation.settings import SETTING_NAMES
from bark_jax.serve.page import PAGE, content_security_policy

TEXT = """It's "quoted", $HOME and `date`, \\n\\\\ and 'é♪😀'\nin two lines; <b>bold</b> & {"json": 1}"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class TestFile:
    def test_nothing_comes_from_other_hosts_and_no_other_script_would_run(self):
        html = PAGE.read_text()
        assert "http://" not in html and "https://" not in html and "//cdn" not in html
        policy = content_security_policy(html)
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert content_security_policy(html.replace("clearError();", "clearError( );")) != policy
        assert not re.search(r'\son\w+="|\sstyle="', html), "the policy does not let attributes run"

    def test_its_settings_are_those_of_generate(self):
        (fields,) = re.findall(r'id="settings">(.*?)</div>\s*<p', PAGE.read_text(), flags=re.DOTALL)
        names = re.findall(r'<input id="(\w+)"', fields)
        assert len(names) >= 6 and set(names) <= SETTING_NAMES

    def test_its_cues_are_those_of_the_documentation(self):
        (cues,) = re.findall(r"const CUES = (\[.*?\]);", PAGE.read_text())
        documented = (PAGE.parents[3] / "docs" / "prompts.md").read_text()
        assert all(f"`{cue}`" in documented for cue in json.loads(cues))


def pcm_of(seed):
    return to_pcm16(noise(seed, 2))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install '.[browser]'")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


COUNT_COLOURS = """(canvas) => new Set(new Uint32Array(
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
# Of controls, those without a label, a name or a text of their own.
NAMELESS = """(controls) => controls.filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
  .map((one) => one.outerHTML)"""
# Keeps what is played: [start in samples, samples as int16] of each part.
RECORD = """
window.heard = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const samples = [...this.buffer.getChannelData(0)].map((sample) => Math.round(sample * 32768));
  window.heard.push([Math.round(when * this.buffer.sampleRate), samples]);
  return start.call(this, when);
};
"""
# A browser may see the end of the connection before the abort that ended it.
END_BEFORE_ABORT = """
const real = window.fetch;
window.fetch = async (url, {signal, ...options} = {}) => {
  const answer = await real(url, options);
  if (!signal) return answer;
  const parts = answer.body.getReader();
  return new Response(new ReadableStream({
    start(body) { signal.onabort = () => { body.error(new TypeError("network error")); parts.cancel(); }; },
    async pull(body) { const {done, value} = await parts.read(); done ? body.close() : body.enqueue(value); },
  }));
};
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here: apt-get install chromium")
@pytest.mark.filterwarnings("default")
class TestBrowser:
    @pytest.fixture
    def context(self, browser):
        context = browser.new_context(viewport={"width": 360, "height": 740}, accept_downloads=True)
        context.set_default_timeout(HANG_S * 1000)
        context.add_init_script(RECORD)
        yield context
        context.close()

    @pytest.fixture
    def service(self):
        return StubService()

    @pytest.fixture
    def served(self, service):
        with serving(service, settings()) as served:
            yield served

    @pytest.fixture
    def open_page(self, context):
        """Opens the page of a server; at the end no script has failed and the policy has refused nothing."""
        faults = []

        def open_page(served):
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
            page.goto(served.url)
            return page

        yield open_page
        assert not faults

    @pytest.fixture
    def page(self, open_page, served):
        return loaded(open_page(served))

    def test_what_is_typed_is_heard_while_it_is_made_and_is_what_the_api_gives(self, page, served):
        speak(page, "held", seed=7)
        says(page, "First audio")
        assert [part.tobytes() for part in heard(page)] == [pcm_of(7)[: 2 * PART]], "it plays while the others wait"
        served.call(served.service.release.set)
        says(page, "Finished: 0.4 s")
        assert np.concatenate(heard(page)).tobytes() == pcm_of(7)
        starts = page.evaluate("heard.map(([start]) => start)")
        assert starts[1] >= starts[0] + PART, "parts do not overlap"
        file = downloaded(page, "wav")
        assert soundfile.read(io.BytesIO(file), dtype="int16")[0].tobytes() == pcm_of(7)
        assert file[44:] == api(served.url, input="held", seed=7, response_format="pcm")
        assert page.locator("audio").evaluate("(audio) => audio.duration || 0") in (0, 0.4)
        assert page.locator(".wave").evaluate(COUNT_COLOURS) > 1 and page.locator(".mel").evaluate(COUNT_COLOURS) > 10

    def test_other_formats_are_spoken_again_and_decode_to_the_same_length(self, page):
        speak(page, "Hello there.", seed=7)
        says(page, "Finished")
        flac = downloaded(page, "flac")
        decode = """async (bytes) => (await new OfflineAudioContext(1, 1, 24000)
          .decodeAudioData(Uint8Array.from(bytes).buffer)).getChannelData(0).length"""
        assert page.evaluate(decode, list(flac)) == 2 * PART

    def test_settings_voice_and_a_new_seed_reach_the_server(self, page, service):
        page.get_by_label("Language of the voice").select_option("German")
        page.get_by_label("Voice", exact=True).select_option("v2/de_speaker_3")
        page.get_by_text("More:").click()
        page.get_by_label("Temperature", exact=True).fill("0.6")
        page.get_by_label("Top-k").fill("50")
        speak(page, "Guten Tag.")
        says(page, "Finished")
        page.get_by_role("button", name="Again with another seed").click()
        page.locator(".clip").nth(1).wait_for()
        says(page, "Finished")
        first, second = service.requests
        assert (first.text, first.voice) == ("Guten Tag.", "v2/de_speaker_3")
        assert first.settings == {"temperature": 0.6, "top_k": 50}
        assert (second.text, second.voice, second.settings) == (first.text, first.voice, first.settings)
        assert second.seed != first.seed
        assert f"seed {first.seed}" in page.locator(".clip").nth(1).inner_text(), "the newest clip comes first"

    @pytest.mark.parametrize("has_file", [False, True], ids=["named voice", "kept voice"])
    def test_the_copied_requests_give_the_same_file(self, page, service, tmp_path, has_file):
        if has_file:
            speak(page, "First.", seed=3)
            says(page, "Finished")
            (tmp_path / "voice.npz").write_bytes(download(page, lambda: page.get_by_text("Download the voice").click()))
            page.get_by_role("button", name="Keep this voice").click()
            says(page, "The voice is kept")
        speak(page, TEXT, seed=9)
        says(page, "Finished")
        asked = service.requests[-1]
        assert asked.text == TEXT and asked.voice == (voice_of(3) if has_file else None)
        newest = page.locator(".clip").first
        newest.get_by_text("The same request").click()
        for code, command in ((".curl", ["bash", "-c"]), (".python", [sys.executable, "-c"])):
            subprocess.run([*command, newest.locator(code).inner_text()], cwd=tmp_path, check=True, timeout=HANG_S)
            assert (service.requests[-1].text, service.requests[-1].voice) == (asked.text, asked.voice)
            assert (tmp_path / "speech.wav").read_bytes()[44:] == pcm_of(9)
            (tmp_path / "speech.wav").unlink()

    def test_a_voice_from_a_file_is_used_or_refused_in_words(self, page, service, tmp_path):
        from bark_jax.voices.voice import PROMPT_KEYS

        np.savez(tmp_path / "mine.npz", **dict(zip(PROMPT_KEYS, voice_of(5).to_dict().values(), strict=True)))
        (tmp_path / "other.npz").write_bytes(b"\x80\x04no")
        page.get_by_text("More:").click()
        page.get_by_label("Voice from a .npz file").set_input_files(tmp_path / "mine.npz")
        speak(page, "Hello.")
        says(page, "Finished")
        assert service.requests[-1].voice == voice_of(5)
        page.get_by_label("Voice from a .npz file").set_input_files(tmp_path / "other.npz")
        speak(page, "Hello.")
        assert "pickle" in page.get_by_role("alert").inner_text()

    def test_errors_are_shown_in_words_and_what_came_before_is_kept(self, page, service):
        speak(page, "silent")
        assert "no audio" in page.get_by_role("alert").inner_text()
        speak(page, "late device")
        page.get_by_role("alert").filter(has_text="device failed").wait_for()
        assert "cut short" in page.locator(".clip").inner_text()
        speak(page, "x" * 5000)
        assert "at most 4,096" in page.get_by_role("alert").inner_text()
        assert page.evaluate("document.activeElement.id") == "text", "the field that is wrong has the focus"
        speak(page, "And now it works.")
        says(page, "Finished")
        assert not page.get_by_role("alert").is_visible()

    def test_a_server_that_is_gone_is_an_error_in_words(self, open_page, service):
        with serving(service, settings()) as served:
            page = loaded(open_page(served))
        speak(page, "Hello.")
        assert "does not answer" in page.get_by_role("alert").inner_text()

    @pytest.mark.parametrize("fetch", ["", END_BEFORE_ABORT], ids=["aborted", "broken connection"])
    def test_stop_ends_the_request_and_the_sound(self, page, service, fetch):
        page.evaluate(fetch)
        speak(page, "held")
        says(page, "First audio")
        page.get_by_role("button", name="Stop").click()
        says(page, "Stopped")
        assert "cut short" in page.locator(".clip").inner_text()
        speak(page, "And again.")
        says(page, "Finished")

    def test_two_tabs_speak_at_once(self, open_page, served):
        pages = [loaded(open_page(served)) for _ in range(2)]
        for seed, page in enumerate(pages):
            speak(page, "held", seed=seed)
        for page in pages:
            says(page, "First audio")
        served.call(served.service.release.set)
        for seed, page in enumerate(pages):
            says(page, "Finished")
            assert np.concatenate(heard(page)).tobytes() == pcm_of(seed)

    def test_a_key_is_asked_for_and_used(self, open_page, service):
        with serving(service, settings(api_key="s3cret")) as served:
            page = open_page(served)
            for key in ("wrong", "s3cret"):
                page.get_by_label("This server asks for a key").fill(key)
                page.keyboard.press("Enter")
                if key == "wrong":
                    page.get_by_role("alert").filter(has_text="key").wait_for()
            loaded(page)
            speak(page, "Hello.")
            says(page, "Finished")
            page.get_by_text("The same request").click()
            assert "s3cret" not in page.locator("body").inner_text(), "code names the variable and not the key"

    def test_cues_are_inserted_at_the_cursor(self, page):
        text = page.get_by_label("Text", exact=True)
        text.fill("Hello my dog")
        text.evaluate("(text) => text.setSelectionRange(5, 5)")
        page.get_by_role("button", name="[laughs]").click()
        assert text.input_value() == "Hello [laughs] my dog"
        text.evaluate("(text) => text.setSelectionRange(16, 16)")
        page.get_by_role("button", name="CAPITALS").click()
        assert text.input_value() == "Hello [laughs] MY dog"
        page.keyboard.press("End")
        page.get_by_role("button", name="♪ song ♪").click()
        assert text.input_value() == "Hello [laughs] MY dog ♪ la la la ♪"

    def test_a_model_with_a_word_list_has_no_cues_and_names_words_that_it_does_not_know(self, open_page):
        with serving(StubService(words={"hello", "dog"}), settings()) as served:
            page = loaded(open_page(served))
            assert not page.get_by_role("button", name="[laughs]").is_visible()
            page.get_by_label("Text", exact=True).fill("Hello dog, hello 7 zebras")
            page.get_by_text("Not among its words: zebras").wait_for()

    def test_it_works_by_keyboard_alone_on_a_narrow_screen(self, page):
        page.get_by_label("Text", exact=True).focus()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.type("Hello.")
        page.keyboard.press("ControlOrMeta+Enter")
        says(page, "Finished")
        for details in page.locator("summary:visible").all():
            details.press("Enter")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        controls = page.locator("button:visible, input:visible, select:visible, textarea:visible")
        assert controls.evaluate_all(NAMELESS) == []
        reached = set()
        page.get_by_label("Text", exact=True).focus()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("(document.activeElement.textContent || document.activeElement.id).trim()"))
        assert {"[laughs]", "seed", "Speak", "Again with another seed", "Download", "Copy curl"} <= reached


def loaded(page):
    page.get_by_text(", ready").wait_for()
    return page


def speak(page, text, seed=None):
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_label("Seed").fill("" if seed is None else str(seed))
    page.get_by_role("button", name="Speak", exact=True).click()


def says(page, text):
    page.get_by_role("status").filter(has_text=text).wait_for()


def heard(page):
    return [np.array(samples, np.int16) for _, samples in page.evaluate("heard")]


def download(page, click):
    with page.expect_download() as found:
        click()
    return Path(found.value.path()).read_bytes()


def downloaded(page, form):
    clip = page.locator(".clip").first
    clip.get_by_label("Format").select_option(form)
    return download(page, clip.get_by_role("button", name="Download", exact=True).click)


def api(address, **fields):
    body = json.dumps({"model": "stub", "stream_format": "audio"} | fields).encode()
    request = urllib.request.Request(address + "/v1/audio/speech", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HANG_S) as answer:
        return answer.read()
