"""A signal is answered until everything of a run is written, its report too."""

import signal
from types import SimpleNamespace

from configs.llm import arithmetic
from gempi_jax.runners import llm
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.policy import Start


def test_the_report_is_written_while_signals_are_still_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "_train", lambda *_: SimpleNamespace(params={"policy": {}}))
    monkeypatch.setattr(Start, "export", lambda *_: None)
    config = arithmetic.get_config("vmpo,quick")
    before, reported = signal.getsignal(signal.SIGTERM), []

    def report(workdir):
        reported.append((workdir, signal.getsignal(signal.SIGTERM) != before))

    llm.run(settings_from_config(config), tmp_path / "run", config.to_dict(), report=report)
    assert reported == [(tmp_path / "run", True)]
    assert signal.getsignal(signal.SIGTERM) == before
