"""The errors of offline scoring. A wrong request is a `StartError`; work that fails later is a `ScoringFailed`."""

from app.errors import StartError


class SourceError(StartError):
    """There are no images at a source, or the column of a table is not clear."""


class OutputError(StartError):
    """The output cannot be written, or holds the rows of another run."""


class ScoringFailed(Exception):
    """The work failed after it had begun. The rows that are written stay."""


class SourcesChanged(ScoringFailed):
    """The sources are not those of the start. The run cannot go on."""
