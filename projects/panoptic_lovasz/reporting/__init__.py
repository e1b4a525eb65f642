"""What a training leaves for people: records, plots and one page that holds them all."""

from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {".report": ["write_report_page"]})
