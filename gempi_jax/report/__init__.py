"""Reads results and shows them; knows numpy and matplotlib, never jax."""

from gempi_jax.report.comparison import write_comparison as write_comparison
from gempi_jax.report.html import write_report as write_report
from gempi_jax.report.records import Run as Run
from gempi_jax.report.records import read_run as read_run
