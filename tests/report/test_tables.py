import math

import pytest

from gempi_jax.report.checks import findings
from gempi_jax.report.records import read_run
from gempi_jax.report.tables import (
    Stage,
    Table,
    configuration,
    duration,
    group_labels,
    headline_metric,
    is_accuracy,
    number,
    phase_label,
    phase_table,
    stages,
    time_shares,
    to_markdown,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (0.123456, "0.1235"), (12.3456, "12.35"), (-0.5, "-0.5"), (28123.4, "28,123"),
     (9999.6, "10,000"), (3e-7, "3.00e-07"), (4e9, "4.00e+09"), (math.nan, "not finite")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_durations():
    assert [duration(seconds) for seconds in (4.2, 89.0, 90.0, 5400.0)] == ["4 s", "89 s", "1.5 min", "1.5 h"]


def test_the_figure_at_each_stage(make_workdir):
    run = read_run(make_workdir())

    assert headline_metric(run) == "heldout/reward"
    assert is_accuracy(run, "heldout/reward")
    assert stages(run, "heldout/reward") == [
        Stage("at the start", 0, 0.0),
        Stage("after SFT", 20, 0.25),
        Stage("after V-MPO", 50, 0.55),
    ]


def test_a_score_without_answers_is_no_accuracy(make_workdir):
    samples = [{"step": 0, "phase": "rl", "when": "before", "prompt": "Once", "completion": "x", "reward": 0.3}]

    assert not is_accuracy(read_run(make_workdir(samples=samples)), "heldout/reward")


def test_phases_that_share_a_method_keep_their_own_names(make_workdir):
    run = read_run(make_workdir(rl={"method": "sft", "num_iterations": 30}))

    assert [phase_label(run, phase) for phase in run.phases] == ["sft", "rl"]


def test_the_table_of_phases(make_workdir):
    table = phase_table(read_run(make_workdir()))

    assert table.header[2:5] == ("heldout/reward before", "after", "gain, points")
    assert table.rows[0] == ("SFT", "0 – 20", "0.0 %", "25.0 %", "+25.0", "10 s", "–")
    assert table.rows[1] == ("V-MPO", "21 – 50", "25.0 %", "55.0 %", "+30.0", "30 s", "20,000")


def test_the_table_of_a_run_without_a_row_names_no_metric(make_workdir):
    assert phase_table(read_run(make_workdir(rows=[{"step": 0}]))).header[2] == "before"


def test_the_shares_of_time_add_up_to_the_steps(make_workdir):
    shares = time_shares(read_run(make_workdir()))

    # 30 steps of 0.6 and 0.3 s; 10 s of SFT and 30 times 0.1 s are in no activity.
    assert [
        (name, pytest.approx(value)) for name, value in [("generate", 18.0), ("other", 13.0), ("m_step", 9.0)]
    ] == shares


def test_settings_by_section():
    config = {"seed": 1, "rl": {"method": "vmpo", "optimizer": {"b1": 0.9, "extra": {}}}, "empty": {}}

    assert configuration(config) == [
        ("run", [("seed", "1")]),
        ("rl", [("method", "vmpo"), ("optimizer.b1", "0.9"), ("optimizer.extra", "{}")]),
    ]


def test_markdown():
    table = Table(("a", "b"), [("1", "x|y")])

    assert to_markdown(table).split("\n") == ["| a   | b    |", "|-----|------|", "| 1   | x\\|y |"]


def test_runs_that_differ_in_the_seed_alone_share_a_label(make_workdir):
    dar = {"method": "dar", "num_iterations": 30}
    folders = [make_workdir("a", seed=1), make_workdir("b", seed=2), make_workdir("c", rl=dar)]

    assert group_labels([read_run(folder) for folder in folders]) == ["V-MPO", "V-MPO", "DAR"]
    assert group_labels([read_run(folder) for folder in folders[:2]]) == ["V-MPO", "V-MPO"]


def test_nothing_to_find_in_a_good_run(make_workdir):
    assert findings(read_run(make_workdir())) == []


def test_what_is_worth_knowing_of_a_bad_run(make_workdir):
    row = {
        "phase": "rl",
        "loss": "NaN",
        "skipped_updates": 2.0,
        "mstep/kl_over_budget": 3.0,
        "estep/ess_fraction": 0.01,
        "estep/shortfall": 0.25,
        "completions/clipped_ratio": 0.5,
    }
    overrun = [{"step": step, "phase": "rl", "mstep/kl_over_budget": 3.0} for step in range(21, 30)]
    rows = [{"step": 20, "phase": "sft"}, *overrun, {"step": 30, **row}]
    found = "\n".join(findings(read_run(make_workdir(rows=rows))))

    for text in (
        "2 updates were skipped",
        "loss is not finite at step 30",
        "V-MPO stands at step 30 of 50",
        "until step 30: mstep/kl_over_budget: a budget was overrun for 10 iterations (at 3 to 3 of it)",
        "1.0 % of the batch",
        "raising each by 0.25 nats",
        "50.0 % of the completions",
    ):
        assert text in found


def test_a_phase_that_has_not_begun(make_workdir):
    assert "rl has not begun" in findings(read_run(make_workdir(rows=[{"step": 20, "phase": "sft"}])))[0]
