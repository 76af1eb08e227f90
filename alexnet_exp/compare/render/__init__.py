"""Provides the outputs of a comparison: terminal, Markdown, CSV, JSON, dot plot and the HTML report."""
