"""The page of a report: what stands in it, and that nothing in it can do anything."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from recall_traces.comparison import compare_arms
from recall_traces.curves import METRICS, Curves
from recall_traces.report import Origin, Report, Setting, page_data, render, table

NASTY = "<script>alert('x')</script>"
RECORD = {
    "task": "Maze",
    "configuration": {},
    "arms": {"none": {"status": "finished", "failures": {"1": f"seed 1: {NASTY}"}}, "recall": {"status": "running"}},
    "calls": [
        {
            "date": "2026-01-02",
            "command_line": "recall-traces compare Maze --seeds 3",
            "git_commit": "abc123-dirty",
            "versions": None,
        },
        {
            "date": "2026-01-03",
            "command_line": "recall-traces resume runs/maze",
            "git_commit": "abc123-dirty",
            "versions": {"torch": "2.13.0", "scipy": None},
        },
    ],
}


def curves(first="none", second="recall", task="Maze"):
    """Three seeds: those of the first arm get to 1 after 30, 30 and no steps ever, those of the second all after 10."""
    first_values = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=float)
    second_values = np.array([[0, 1, 1, 1, 1]] * 3, dtype=float)
    known = {first: first_values, second: second_values}
    nowhere = {arm: np.full((3, 5), np.nan) for arm in known}
    values = {metric: nowhere if metric.startswith("greedy") else known for metric in METRICS}
    return Curves(task, np.arange(0, 50, 10), {first: (0, 1, 2), second: (0, 1, 2)}, values)


class Page(HTMLParser):
    """Texts of the cells and of everything, and the scripts."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.scripts, self.texts, self.tags = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        inside = self.tags[-1][0] if self.tags else ""
        if inside == "script" and not self.scripts[-1]:
            self.scripts[-1] = data
        self.texts.append(data)
        if inside in ("td", "th"):
            self.rows[-1][-1] += data.strip()


def test_the_table_has_the_numbers_of_the_comparison():
    page = Page(render(Report([curves()])))
    assert ["none", "3", "2 of 3", "30 (30, never)", "0.25 (0.00, 0.38)"] in page.rows
    assert ["recall", "3", "3 of 3", "10 (10, 10)", "0.88 (0.88, 0.88)"] in page.rows
    assert ["none", "", "0.00 (0.00, 0.00)"] in page.rows
    assert ["recall", "1.00 (1.00, 1.00)", ""] in page.rows
    assert ["none", "Maze", "0, 1, 2", "30, 30, never", "0.38, 0.38, 0.00"] in page.rows


def test_tasks_have_tables_of_their_own_and_one_together():
    page = Page(render(Report([curves(), curves(task="Grid")])))
    assert [row[1] for row in page.rows if row[:1] == ["none"] and len(row) == 5 and "of" in row[2]] == ["3", "3", "6"]
    assert {"Maze: success rate", "Grid: success rate", "all tasks together: success rate"} <= set(page.texts)


def test_returns_without_a_threshold_have_areas_alone():
    found = table(compare_arms(curves(), "episode_return"), "Maze")
    assert (found["goal"], found["pairs"]) == (None, [])
    assert found["rows"][1] == {"arm": "recall", "seeds": 3, "area": "0.875 (0.875, 0.875)"}
    assert "--threshold" in render(Report([curves()], "episode_return"))


def test_data_of_the_curves():
    data = page_data([curves()], {"Maze": {"recall": {"recall/traces": ([0, 10], [3.0, 4.0])}}}, "success", 0.9)
    assert [choice["key"] for choice in data["learning"]["choices"]] == ["episode_return", "success"]
    (panel,) = data["learning"]["panels"]
    line = panel["lines"]["success"][0]
    assert (line["arm"], line["x"], line["mean"]) == (0, [0, 10, 20, 30, 40], [0, 0, 0, 0.6667, 0.6667])
    assert (line["low"][3], line["high"][3]) == (0, 1)
    assert line["seeds"][2] == [[0, 10, 20, 30, 40], [0, 0, 0, 0, 0]]
    assert data["scalars"]["chosen"] == "recall/traces"
    assert data["scalars"]["panels"][0]["lines"]["recall/traces"] == [{"arm": 1, "x": [0, 10], "mean": [3, 4], "seeds": []}]


def test_long_curves_are_thinned_and_keep_their_ends():
    steps = np.arange(5000)
    values = {metric: {"none": np.tile(steps / 5000, (2, 1))} for metric in METRICS}
    data = page_data([Curves("Long", steps, {"none": (0, 1)}, values)], {}, "success", 0.9)
    (line,) = data["learning"]["panels"][0]["lines"]["success"]
    assert len(line["x"]) == len(line["mean"]) == len(line["seeds"][0][0]) == 300
    assert (line["x"][0], line["x"][-1]) == (0, 4999)


def test_where_the_numbers_come_from():
    settings = [Setting("seeds", "3", "8"), Setting("steps", "50")]
    page = Page(render(Report([curves()], origins=[Origin("runs/maze", RECORD, settings)], remarks=["There is no film."])))
    assert ["seeds", "3", "8"] in page.rows
    assert ["steps", "50"] in page.rows
    assert ["torch", "2.13.0"] in page.rows
    assert ["none", "finished", f"seed 1: {NASTY}"] in page.rows
    assert "git checkout abc123\nrecall-traces compare Maze --seeds 3" in page.texts
    assert "There is no film." in page.texts
    assert "Files had been changed since that commit." in page.texts


def test_names_are_text_wherever_they_stand():
    report = Report(
        [curves(NASTY, "recall", f"Maze</title>{NASTY}")],
        scalars={NASTY: {NASTY: {NASTY: ([0], [1.0])}}},
        origins=[Origin(NASTY, RECORD, [Setting(NASTY, NASTY, NASTY)], NASTY)],
        remarks=[NASTY],
    )
    html = render(report)
    assert "<script>alert" not in html
    page = Page(html)
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0])["arms"][0]["name"] == NASTY
    assert [tag for tag, _ in page.tags].count("title") == 1


def test_the_page_allows_its_own_script_and_nothing_else():
    html = render(Report([curves()]))
    (policy,) = (attrs["content"] for tag, attrs in Page(html).tags if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, element in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "url(" not in files("recall_traces").joinpath("report.css").read_text()


@pytest.mark.parametrize(("report", "words"), [(Report([]), "No curves"), (Report([curves()], "sucess"), "no metric")])
def test_what_cannot_be_reported_is_refused(report, words):
    with pytest.raises(ValueError, match=words):
        render(report)


def test_arms_that_were_not_trained_alike_are_named():
    whole = curves()
    assert table(compare_arms(whole), "Maze")["notes"] == []
    whole.values["success"]["none"][:, 3:] = np.nan
    assert table(compare_arms(whole), "Maze")["notes"] == [
        "Maze: arms ended between 20 and 40 steps; probabilities compare two arms up to where the shorter one ended, areas and "
        "steps are of each arm's whole run"
    ]
    notes = table(compare_arms([curves(), curves("none", "bonus", "Hall")]), "both")["notes"]
    assert notes == [f"{arm} was trained on 1 of 2 tasks; its numbers are of these alone" for arm in ("recall", "bonus")]
