"""`recall-traces report`: the file, and what a real browser makes of it."""

import json
import re
import shutil

import numpy as np
import pytest
from browser import Browser
from cli_helpers import call, record

from recall_traces.curves import METRICS, Curves
from recall_traces.report import Report, write_report

SHORT = "--seeds 2 --steps 1536 --eval-every 512 --eval-episodes 2 --num-envs 8 --agent.n-steps 64"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two arms."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert call(f"compare FourRooms-7 --arms none recall {SHORT} --quiet --out {folder}") == 0
    return folder


@pytest.fixture(scope="module")
def page(trained):
    """Its report."""
    assert call(f"report {trained} --out {trained.parent / 'report.html'}") == 0
    return trained.parent / "report.html"


def data(file):
    return json.loads(re.search(r'id="data">(.*?)</script>', file.read_text(), re.DOTALL)[1])


def test_report_of_a_run(page):
    text = page.read_text()
    assert page.stat().st_size < 1_000_000
    assert text.count("data:image/png") == 2  # the curves, and what the one arm that recalls holds
    assert "FourRooms-7, recall, seed 0, 1,536 steps" in text
    assert '<tr><th>steps</th><td class="text">1536</td><td class="text">40000</td></tr>' in text
    assert '<tr><th>agent.n_steps</th><td class="text">64</td>' in text
    assert text.count("<tr><th>seed</th>") == 1  # with the default, so that it stands among all settings alone
    assert '<tr><th>torch</th><td class="text">2.' in text
    assert "recall-traces compare FourRooms-7 --arms none recall" in text
    scalars = data(page)["scalars"]
    assert scalars["chosen"] == "recall/model_loss"
    (line,) = scalars["panels"][0]["lines"]["recall/model_loss"]
    assert line["arm"] == 1
    assert line["x"] == sorted(line["x"])
    assert len(line["mean"]) >= 2


def test_by_default_it_goes_into_the_folder_of_a_single_run(run, capsys):
    assert call("report run --threshold 0.5") == 0
    assert capsys.readouterr().out == "run/report.html\n"
    assert "got to 50%" in (run / "report.html").read_text()


def test_what_a_folder_lacks_is_said(run, capsys):
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "tensorboard")
    config = record(run)
    config["configuration"]["agent"]["colour"] = "red"
    (run / "config.json").write_text(json.dumps(config))
    assert call("report run") == 0
    text = (run / "report.html").read_text()
    assert "No picture of what recall recalls: " in text
    assert "There are no events of TensorBoard" in text
    assert "could not be compared with the defaults: " in text
    assert "agent.colour is not a setting" in text
    (run / "config.json").unlink()
    assert call("report run") == 0
    assert "run tells neither configuration nor versions: " in (run / "report.html").read_text()


def test_arms_of_the_same_name_keep_their_own_scalars(run):
    shutil.copytree(run, run.parent / "again")
    assert call("report run again") == 0
    found = data(run.parent / "report.html")
    assert [arm["name"] for arm in found["arms"]] == ["run/none", "run/recall", "again/none", "again/recall"]
    lines = found["scalars"]["panels"][0]["lines"]["recall/model_loss"]
    assert [line["arm"] for line in lines] == [1, 3]


def test_a_file_that_cannot_be_written_is_one_sentence(run, capsys):
    (run.parent / "file").touch()
    assert call("report run/curves.csv --out file/report.html") == 2
    error = capsys.readouterr().err
    assert error.startswith("recall-traces: cannot write file/report.html: ")
    assert error.count("\n") == 1


# In a browser ------------------------------------------------------------------------------------------------------------


def test_the_page_renders_and_the_legend_toggles_arms(page, tmp_path):
    with Browser(tmp_path / "browser") as browser:
        browser.open(page)

        def lines(kind, arm):
            return browser.run(f"return document.querySelectorAll('[data-kind={kind}] path.mean[data-arm=\"{arm}\"]').length")

        assert [lines("learning", 0), lines("learning", 1), lines("scalars", 1)] == [1, 1, 1]
        assert browser.run("return document.querySelectorAll('[data-kind=learning] path.seed').length") == 4
        browser.click("#legend button[data-arm='1']")
        assert [lines("learning", 0), lines("learning", 1), lines("scalars", 1)] == [1, 0, 0]
        assert browser.run("return document.querySelector('#legend button[data-arm=\"1\"]').ariaPressed") == "false"
        browser.click("#legend button[data-arm='1']")
        assert lines("learning", 1) == 1
        browser.click("#each-seed")
        assert browser.run("return document.querySelectorAll('path.seed').length") == 0
        browser.run(
            "const select = document.querySelector('select'); select.value = 'episode_return'; "
            "select.dispatchEvent(new Event('change'))"
        )
        assert "episode return over" in browser.run("return document.querySelector('.canvas > svg').getAttribute('aria-label')")
        browser.hover("figure.chart .canvas > svg", 0, 0)
        tip = browser.run("return document.querySelector('.tip').innerText")
        assert re.match(r"[\d.k]+ steps\n", tip)
        assert "none " in tip
        assert "recall " in tip
        assert browser.run("return performance.getEntriesByType('resource').length") == 0
        assert browser.run("return [...document.images].every((image) => image.naturalWidth > 600)")
        assert browser.console() == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_readable_at_phone_width(page, tmp_path, dark):
    with Browser(tmp_path / "browser", width=390, dark=dark) as browser:
        browser.open(page)
        assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        sizes = browser.run(
            "return [...document.querySelectorAll('main *')].filter((element) => [...element.childNodes]"
            ".some((node) => node.nodeType === 3 && node.data.trim()))"
            ".map((element) => parseFloat(getComputedStyle(element).fontSize))"
        )
        assert min(sizes) >= 12
        assert browser.run("return document.querySelector('.canvas > svg').getBoundingClientRect().width") > 300
        colours = browser.run("const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]")
        paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
        assert (paper < ink) == dark
        assert abs(paper - ink) > 150
        assert browser.console() == []


def test_names_are_not_run(tmp_path):
    nasty, image = "<script>ran = 1</script>", "<img src=x onerror='ran=1'>"
    arms = {nasty: np.linspace(0, 1, 10).reshape(2, 5), "none": np.zeros((2, 5))}
    curves = Curves(image, np.arange(5), {arm: (0, 1) for arm in arms}, {metric: arms for metric in METRICS})
    file = write_report(Report([curves], remarks=[nasty + image]), tmp_path / "report.html")
    with Browser(tmp_path / "browser") as browser:
        browser.open(file)
        browser.hover("figure.chart .canvas > svg", 0, 0)
        assert nasty in browser.run("return document.querySelector('.tip').innerText")
        assert browser.run("return document.querySelector('#legend button span').innerText") == nasty
        assert browser.run("return document.querySelector('h1').innerText") == image
        assert browser.run("return window.ran === undefined")
        assert browser.console() == []
