"""Files of a run: valid JSON whatever the numbers, the same bytes after a resume, other runs' folders untouched."""

import json
import math

import pytest

from gempi_jax.training import jsonfiles, writers


def write_steps(folder, steps, resumed_at=None):
    with writers.Writer(folder, resumed_at=resumed_at) as writer:
        for step in steps:
            writer.metrics(step, {"reward": step / 7, "kl": 1e-3 * step})
            writer.samples(step, [{"prompt": "2+2=", "completion": "4\n"}])


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_is_claimed_and_claimed_again(tmp_path):
    config = {"lr": 1e-3, "model": {"widths": (1, 2), "clip": math.inf}}
    folder = writers.claim_workdir(tmp_path / "a" / "b", config)
    before = snapshot(folder)
    assert writers.claim_workdir(tmp_path / "a" / "b", config) == folder
    assert snapshot(folder) == before
    assert json.loads(before["config.json"])["model"] == {"widths": [1, 2], "clip": "Infinity"}


def test_another_config_is_refused_with_both_values(tmp_path):
    writers.claim_workdir(tmp_path, {"lr": 1e-3, "model": {"width": 8, "bias": True}, "seed": 1})
    before = snapshot(tmp_path)
    with pytest.raises(writers.WorkdirError) as error:
        writers.claim_workdir(tmp_path, {"lr": 2e-3, "model": {"width": 8, "bias": 1}, "steps": 5})
    for line in (
        "lr: 0.001 there, 0.002 now",
        "model.bias: True there, 1 now",
        "seed: 1 there, '(absent)' now",
        "steps: '(absent)' there, 5 now",
        "--workdir",
    ):
        assert line in str(error.value)
    assert "width" not in str(error.value)
    assert snapshot(tmp_path) == before


def test_an_empty_section_is_not_an_absent_one():
    assert jsonfiles.differences({"a": {}}, {}) == [("a", {}, "(absent)")]
    assert jsonfiles.differences({}, {}) == []


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_unreadable_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(writers.WorkdirError, match=r"config\.json.*--workdir"):
        writers.claim_workdir(tmp_path, {})


def test_results_without_a_config_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(writers.WorkdirError, match=r"holds metrics\.jsonl but no config\.json"):
        writers.claim_workdir(tmp_path, {})
    assert snapshot(tmp_path) == {"metrics.jsonl": b'{"step": 1}\n'}


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(writers.WorkdirError, match="is a file"):
        writers.claim_workdir(tmp_path / "x", {})


def test_a_folder_under_a_file_or_without_rights_is_no_workdir(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("")
    with pytest.raises(writers.WorkdirError, match=r"lies under .*x, which is a file: give another --workdir"):
        writers.check_workdir(tmp_path / "x" / "run", {})
    # The administrator may write anywhere, so the answer is given here.
    monkeypatch.setattr(writers.os, "access", lambda *_: False)
    with pytest.raises(writers.WorkdirError, match="may not be written to; give another --workdir"):
        writers.check_workdir(tmp_path / "run", {})
    monkeypatch.undo()
    monkeypatch.setattr(writers.jsonfiles, "write_atomically", lambda path, _: path.parent.write_bytes(b""))
    with pytest.raises(writers.WorkdirError, match=r"cannot be written to \(.*\): give another --workdir"):
        writers.claim_workdir(tmp_path / "run", {})


def test_asking_for_a_folder_writes_nothing(tmp_path):
    writers.check_workdir(tmp_path / "a" / "b", {})
    assert not list(tmp_path.iterdir())


def test_a_value_that_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"model\.layers\[1\] is <object"):
        writers.claim_workdir(tmp_path / "new", {"model": {"layers": [1, object()]}})
    assert not (tmp_path / "new").exists()


def test_rows_are_valid_json_and_equal_numbers_equal_bytes(tmp_path):
    with writers.Writer(tmp_path, resumed_at=None) as writer:
        writer.metrics(0, {"b": math.nan, "a": -0.0, "c": -math.inf, "d": math.inf})
        writer.metrics(1, {"c": 1, "a": 0.1})
        writer.metrics(1, {"a": 0.1, "c": 1.0})

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows[0] == {"step": 0, "a": 0.0, "b": "NaN", "c": "-Infinity", "d": "Infinity"}
    assert math.isnan(float(rows[0]["b"]))
    assert float(rows[0]["c"]) == -math.inf
    assert lines[1] == lines[2] == '{"step": 1, "a": 0.1, "c": 1.0}'


def test_a_metric_named_step_is_refused(tmp_path):
    with writers.Writer(tmp_path, resumed_at=None) as writer, pytest.raises(ValueError, match="'step'"):
        writer.metrics(3, {"step": 1.0})


@pytest.mark.parametrize("torn", ["", '{"step": 6, "rew', "{}"])
def test_a_resumed_run_leaves_the_same_bytes(tmp_path, torn):
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    write_steps(tmp_path / "whole", range(10))
    write_steps(tmp_path / "torn", range(6))
    with open(tmp_path / "torn" / "metrics.jsonl", "a") as file:
        file.write(torn)
    write_steps(tmp_path / "torn", range(4, 10), resumed_at=3)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_from_the_beginning_keeps_no_row(tmp_path):
    write_steps(tmp_path, range(3))
    write_steps(tmp_path, range(1))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_broken_line_in_the_middle_is_named_and_kept(tmp_path):
    content = '{"step": 0}\n{"ste\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        writers.Writer(tmp_path, resumed_at=1)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_steps(tmp_path, range(6))
    write_steps(tmp_path, range(4, 8), resumed_at=3)
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
    accumulator = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    scalars = accumulator.Scalars("reward")
    assert [event.step for event in scalars] == list(range(8))
    assert scalars[5].value == pytest.approx(5 / 7)
