"""Reads results and shows them; knows numpy and matplotlib, never jax."""

from gempi_jax.report.html import write_report as write_report
