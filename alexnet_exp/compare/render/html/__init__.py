"""The report: a comparison as one HTML file that works offline and asks nothing of any network."""

from alexnet_exp.compare.render.html.page import write_report

__all__ = ["write_report"]
