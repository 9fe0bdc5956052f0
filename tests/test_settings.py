"""Tests of `app/settings.py`: values and their validation."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", ()),
        (" ", ()),
        ("https://example.org", ("https://example.org",)),
        ("https://a.org, http://b.org:8080", ("https://a.org", "http://b.org:8080")),
        ("*", ("*",)),
    ],
)
def test_a_list_is_separated_by_commas(monkeypatch: pytest.MonkeyPatch, written: str, read: tuple[str, ...]) -> None:
    """In a variable, blanks around commas are ignored, and an empty value is an empty list."""
    monkeypatch.setenv("SWIN_CORS_ORIGINS", written)

    assert read == Settings().cors_origins


@pytest.mark.parametrize(
    "origins",
    ["https://a.org/", "https://a.org/app", "https://A.org", "a.org", "https://", "https://a.org,", "https://u@a.org"],
)
def test_an_origin_that_no_browser_sends_is_refused(origins: str) -> None:
    """A key that no request can carry is refused."""
    with pytest.raises(ValidationError, match="an origin is scheme"):
        Settings.model_validate({"cors_origins": origins})


def test_proxies_are_addresses_and_networks() -> None:
    """Addresses and networks of IPv4 and IPv6 are accepted."""
    settings = Settings.model_validate({"trusted_proxies": "10.0.0.0/8,127.0.0.1,::1"})

    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("127.0.0.1/32"), ip_network("::1/128"))


@pytest.mark.parametrize("proxies", ["proxy", "10.0.0.1/8", "300.0.0.1", "*", "127.0.0.1,"])
def test_what_is_no_address_is_not_trusted(proxies: str) -> None:
    """Host names, networks with host bits and `*` are refused."""
    with pytest.raises(ValidationError, match="not a valid IPv4 or IPv6 network"):
        Settings.model_validate({"trusted_proxies": proxies})


def test_no_error_repeats_what_was_set() -> None:
    """An error message repeats no value, because a value can contain a key."""
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"api_keys": "a-key-of-another-user", "max_client_batch_size": 1000})

    assert "another-user" not in str(raised.value)
