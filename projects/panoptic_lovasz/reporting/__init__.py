"""What a training leaves for people: records, plots and one page that holds them all."""

from .report import write_report_page

__all__ = ["write_report_page"]
