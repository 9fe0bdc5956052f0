"""Tests of `app/errors.py`. The HTTP form of errors is tested in `tests/http`."""

import pickle

import pytest

from app.errors import DeadlineExceeded, InvalidParameter, Overloaded, ServiceError, UnknownModel, UnsupportedEncoding

ERRORS = [
    InvalidParameter("top_k is 0"),
    DeadlineExceeded(),
    Overloaded(2.5),
    UnknownModel("digits", "2"),
    UnsupportedEncoding("The body is encoded.", "gzip"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_an_error_can_be_sent_to_another_process(error: ServiceError) -> None:
    """An error that was pickled has the same class, sentence and attributes."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (pickled here)

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
