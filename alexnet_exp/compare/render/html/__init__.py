"""The HTML report of a comparison: one file that makes no network requests."""

from alexnet_exp.compare.render.html.page import write_report

__all__ = ["write_report"]
