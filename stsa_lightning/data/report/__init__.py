"""What is in a prepared corpus, on one page: counts, spreads of the measures, rejections, the worst clips."""

from __future__ import annotations

from stsa_lightning.data.report.page import ReportSummary, corpus_report

__all__ = ["ReportSummary", "corpus_report"]
