import html.parser
import re
import subprocess
import sys

import pytest

from experiments import make_report
from gempi_jax.report import write_comparison, write_report
from gempi_jax.report.completions import pairs
from gempi_jax.report.panels import PANELS, RETURNS, Line, Panel, expand
from gempi_jax.report.plots import Curve, curves_of, draw, sparkline
from gempi_jax.report.records import read_run
from gempi_jax.report.tables import steps_text

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Page(html.parser.HTMLParser):
    """Elements, identifiers and text of a page; notes elements that are closed in the wrong order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.ids, self.open, self.misplaced, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misplaced.append(tag)

    def handle_data(self, data):
        self.text += data


def read_page(path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_of_a_run(make_workdir):
    text, page = read_page(write_report(make_workdir("my run")))

    assert page.misplaced == []
    assert page.open == []
    for expected in (
        "my run",
        "25.0 %",
        "55.0 %",
        "+30.0 points, 2.20 ×",
        "KL over its budget",
        "Temperature",
        "budget",
    ):
        assert expected in page.text
    # Every line of every panel with values, one wide and one narrow drawing of the progress.
    assert page.tags.count("figure") == 8
    assert text.count("<svg") - text.count('class="spark"') == 9


def test_the_page_needs_nothing_from_elsewhere(make_workdir):
    text, page = read_page(write_report(make_workdir()))

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text
    assert not re.search(r'(href|src)="(?!#)', text.replace("xlink:href", "href"))
    assert "url(http" not in text
    assert "@import" not in text


def test_drawings_share_no_identifiers_and_take_their_colours_from_the_page(make_workdir):
    text, page = read_page(write_report(make_workdir()))

    assert len(page.ids) == len(set(page.ids))
    referred = set(re.findall(r"(?:url\(|xlink:href=\")#([^)\"]+)", text))
    assert referred
    assert referred <= set(page.ids)
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--c1)" in drawings
    assert not re.search(r"#[0-9a-f]{6}", drawings)


HOSTILE = '</pre></div><script>alert("1")</script> & $x^2_$ <img src=x onerror=alert(1)>'


def test_texts_of_a_run_are_never_markup(make_workdir):
    sample = {"phase": "rl", "prompt": HOSTILE, "completion": f"#### {HOSTILE}", "answer": HOSTILE, "reward": 1.0}
    rows = [{"step": step, "phase": "rl", f"rewards/{HOSTILE}/mean": 1.0 * step, "reward": 0.1} for step in (1, 2, 3)]
    samples = [{"step": 1, "when": when, **sample} for when in ("before", "after")]
    folder = make_workdir(rows=rows, samples=samples, **{HOSTILE: {HOSTILE: HOSTILE}}, phases=[HOSTILE])

    page = read_page(write_report(folder))[1]

    assert page.misplaced == []
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count(HOSTILE) == 8  # prompt, answer, two completions, metric, section, key, value


def test_labels_in_drawings_are_neither_markup_nor_mathematics(make_workdir):
    rows = [{"step": step, "phase": HOSTILE, "loss": 1.0} for step in (1, 2)]
    rows += [{"step": step, "phase": "<b>$", "loss": 1.0} for step in (3, 4)]
    run = read_run(make_workdir(rows=rows))
    panel = Panel("Loss", "", (Line("loss", "loss"),))

    page = Page(draw(curves_of(run, panel), panel, name="x", run=run))

    assert page.misplaced == []
    assert HOSTILE in page.text
    assert not {"script", "img", "b"} & set(page.tags)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "holds no row yet"),
        ([{"step": 0, "phase": "sft", "heldout/reward": 0.5}], "after SFT"),
        ([{"step": 1, "phase": "rl", "reward": -2.5}], "Training reward"),
        ([{"step": 1, "phase": "rl", "loss": "NaN"}], "loss is not finite at step 1"),
    ],
)
def test_a_run_that_has_hardly_begun(make_workdir, rows, expected):
    folder = make_workdir(rows=rows or [{"step": 0}], samples=[])
    if not rows:
        (folder / "metrics.jsonl").write_text("")

    page = read_page(write_report(folder))[1]

    assert page.misplaced == []
    assert expected in page.text


def test_a_page_can_be_written_without_config_and_samples(make_workdir):
    folder = make_workdir()
    (folder / "config.json").unlink()
    (folder / "samples.jsonl").unlink()

    assert "config.json is missing" in read_page(write_report(folder))[1].text


def test_completions_are_paired_by_prompt_and_judged(make_workdir):
    run = read_run(make_workdir())

    assert [pair.kind for pair in pairs(run, "rl")] == ["mended", "mended", "mended", "missed"]
    assert [pair.kind for pair in pairs(run, "sft")] == ["mended", "missed", "missed", "missed"]


def test_completions_without_answers_are_compared_by_reward_alone(make_workdir):
    messages = [{"role": "user", "content": "Hi"}]
    samples = [
        {"step": 1, "phase": "rl", "when": when, "prompt": prompt, "completion": "", "reward": reward}
        for when, reward in (("before", 0.25), ("after", None))
        for prompt in ("Once upon a time", messages)
    ]
    page = read_page(write_report(make_workdir(samples=samples)))[1]

    for expected in ("reward 0.25", "no reward", "user: Hi", "(empty)"):
        assert expected in page.text
    assert "✓" not in page.text


def test_a_comparison_of_settings_over_seeds(make_workdir, tmp_path):
    dar = {"method": "dar", "num_iterations": 30}
    folders = [make_workdir(f"vmpo-{seed}", seed=seed, offset=0.1 * seed) for seed in range(3)]
    folders.append(make_workdir("dar", rl=dar, offset=0.2))

    page = read_page(write_comparison(folders, tmp_path))[1]

    assert page.misplaced == []
    # 55, 65 and 75 %: mean 65, std 10, margin 4.30265 * 10 / sqrt(3) = 24.8.
    assert "65.0 % ± 10.0 % [40.2 %, 89.8 %]" in page.text
    assert "+40.0 ± 10.0 [+15.2, +64.8]" in page.text
    assert "DAR" in page.text


def test_a_family_of_metrics_is_expanded():
    names = ["estep/kl_over_budget/old", "estep/kl_over_budget/ref", "mstep/kl_over_budget", "mstep/kl"]

    assert expand(PANELS[0], names) == [
        ("M-step", "mstep/kl_over_budget"),
        ("E-step, old", "estep/kl_over_budget/old"),
        ("E-step, ref", "estep/kl_over_budget/ref"),
    ]


def test_one_wild_value_does_not_flatten_a_curve(make_workdir):
    rows = [{"step": step, "phase": "rl", "loss": 1e6 if step == 40 else 1.0 + step / 100} for step in range(1, 101)]
    run = read_run(make_workdir(rows=rows))
    panel = Panel("Loss", "", (Line("loss", "loss"),))

    drawing = Page(draw(curves_of(run, panel), panel, name="x"))

    assert "1.75" in drawing.text
    assert "1,000,000" not in drawing.text


def test_phases_interrupt_a_curve_and_a_temperature_of_zero_is_none(make_workdir):
    rows = [{"step": step, "phase": "sft", "estep/temperature": 0.0, "loss": 9.0} for step in (1, 2)]
    rows += [{"step": step, "phase": "rl", "estep/temperature": 0.5, "loss": 1.0} for step in (3, 4)]
    run = read_run(make_workdir(rows=rows))
    temperature, loss = (
        Panel("", "", (Line(name, name),), positive=name != "loss") for name in ("estep/temperature", "loss")
    )

    assert curves_of(run, temperature)[0].series[0].steps.tolist() == [3, 4]
    connected = draw(curves_of(run, loss), loss, name="x").count("var(--c1)")
    interrupted = draw(curves_of(run, loss), loss, name="x", run=run).count("var(--c1)")
    assert (connected, interrupted) == (1, 2)


def test_a_curve_of_equal_values_can_be_drawn(make_workdir):
    run = read_run(make_workdir(rows=[{"step": step, "phase": "rl", "loss": 0.0} for step in (1, 2, 3)]))
    series = run.series("loss")

    assert draw([Curve("loss", (series,))], PANELS[4], name="x").startswith("<svg")
    assert "<polyline" in sparkline(series)


def test_the_command(make_workdir, tmp_path, capsys):
    folders = [make_workdir("a"), make_workdir("b", seed=1)]

    assert make_report.main([str(folder) for folder in folders] + [f"--output={tmp_path}"]) == 0
    output = capsys.readouterr().out
    assert "| V-MPO   | 2    |" in output
    assert output.splitlines()[-3:] == [
        *(str(folder / "report.html") for folder in folders),
        str(tmp_path / "comparison.html"),
    ]
    assert make_report.main([str(folders[0])]) == 0
    assert make_report.main([str(tmp_path / "nowhere")]) == 1
    assert "give the workdir" in capsys.readouterr().err


def test_reports_are_written_without_jax(make_workdir):
    code = "import sys, gempi_jax.report; gempi_jax.report.write_report(sys.argv[1]); assert 'jax' not in sys.modules"

    subprocess.run([sys.executable, "-W", "error", "-c", code, make_workdir()], check=True)


def test_seeds_of_a_run_in_environments_are_a_band_and_two_measurements_no_course(make_workdir):
    rows = [{"step": 0, "phase": "vmpo", "heldout/episode/return/seed_0": 0.0, "heldout/episode/return/seed_1": 2.0}]
    for step in (1, 2, 3):
        returns = {f"episode/return/seed_{seed}": step + seed for seed in (0, 1)}
        rows.append({"step": step, "phase": "vmpo", "env_steps": 20_000.0 * step, **returns, "episode/return": step})
    rows[-1] |= {"heldout/episode/return/seed_0": 5.0, "heldout/episode/return/seed_1": 5.0}
    rows[0] |= {"heldout/episode/return": 1.0}
    rows[-1] |= {"heldout/episode/return": 5.0}
    run = read_run(make_workdir(rows=rows, phases=[], env_steps=60_000, num_seeds=2))

    greedy, learning = curves_of(run, RETURNS)
    assert [series.steps.tolist() for series in greedy.series] == [[0, 60_000]] * 2
    assert [series.values.tolist() for series in learning.series] == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    drawing = draw([greedy, learning], RETURNS, name="x", axis=run.axis)
    assert "environment step" in drawing
    assert "60k" in Page(drawing).text
    # That of the learning policy; the greedy one was measured twice.
    assert drawing.count("stroke-width: 1.8") == 1


@pytest.mark.parametrize(("value", "text"), [(800.0, "800"), (12_500.0, "12.5k"), (2e6, "2M"), (0.0, "0")])
def test_steps_fit_under_an_axis(value, text):
    assert steps_text(value) == text
