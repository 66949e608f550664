"""The settings of endpoints: what is taken, and what is said of the rest."""

import pytest
from pydantic import ValidationError

from prinz_enricher.config import EndpointSettings

SECRET = "hunter2"  # noqa: S105 - made up
URL = "https://models.example.com"


def settings_of(**keys: object) -> EndpointSettings:
    """Return checked settings."""
    return EndpointSettings.model_validate({"urls": [URL], **keys})


def test_defaults() -> None:
    """URLs suffice."""
    settings = settings_of(urls=[f"{URL}/team/", "https://[::1]:8443"])
    assert settings.urls == (f"{URL}/team", "https://[::1]:8443")


def test_secrets_are_not_shown() -> None:
    """Neither credentials nor headers are in what is shown of settings."""
    settings = settings_of(headers={"X-Key": SECRET}, username="user", password=SECRET)
    assert SECRET not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"urls": []}, "at least one is required"),
        ({"urls": ["models"]}, "the URL number 1 must be http"),
        ({"urls": [URL, "ftp://models"]}, "the URL number 2 must be http"),
        ({"urls": ["https://"]}, "must be http"),
        ({"urls": [f"https://user:{SECRET}@models"]}, "has a user or a password"),
        ({"urls": [f"{URL}?token={SECRET}"]}, "has a query or a fragment"),
        ({"urls": [f"{URL}#x"]}, "has a query or a fragment"),
        ({"urls": [f"{URL}?"]}, "has a query or a fragment"),
        ({"urls": ["https://models:port"]}, "can't be read"),
        ({"urls": ["https://modèles"]}, "has a host"),
        ({"urls": ["https://mod\nels"]}, "has a path that no base URL has"),
        ({"urls": [f"{URL}/a/../b"]}, "has a path that no base URL has"),
        ({"urls": [f"{URL}/%2e%2e/b"]}, "has a path that no base URL has"),
        ({"urls": [f"{URL}/a b"]}, "has a path that no base URL has"),
        ({"urls": [f"{URL}//a"]}, "has a path that no base URL has"),
        ({"urls": [URL, f"{URL}/"]}, "twice"),
        ({"urls": [URL, "http://models.example.com"]}, "all of http:// or all of https://"),
        ({"convention": []}, "at least 1 item"),
        ({"convention": ["seldon"]}, 'invalid convention "seldon"; expected "prinz", "databricks", "mlflow"'),
        ({"convention": ["{base}/{stage}"]}, "nothing else in braces"),
        ({"convention": ["https://elsewhere/{name}"]}, "invalid convention"),
        ({"models": [""]}, "at least 1 character"),
        ({"headers": {"X Key": "a"}}, "characters that no header has"),
        ({"headers": {"X-Key": f"{SECRET}\r\nHost: x"}}, 'the header "X-Key" can not be sent'),
        ({"headers": {"Host": "x"}}, "is set by the service"),
        ({"headers": {"X-Key": "a", "x-key": "b"}}, "twice"),
        ({"headers": {"Authorization": "a"}, "token": SECRET}, "does not go with the other keys"),
        ({"token": SECRET, "username": "user"}, "username does not go with auth by token"),
        ({"username": "user"}, "needs password or password_file"),
        ({"oauth2_client_id": "a", "oauth2_client_secret": SECRET}, "needs oauth2_token_url"),
        ({"client_key": "a"}, "client_key is set without client_certificate"),
        ({"urls": ["http://models"], "ca_file": "a"}, "does not go with a url of http://"),
        ({"max_concurrent": 0}, "greater than or equal to 1"),
        ({"retry_share": 1.5}, "less than or equal to 1"),
        ({"urrls": []}, "Extra inputs"),
    ],
)
def test_faults(keys: dict[str, object], said: str) -> None:
    """Each fault is told, without any secret."""
    with pytest.raises(ValidationError) as refused:
        settings_of(**keys)
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_templates_and_authorization() -> None:
    """Templates stand beside known conventions, and a header may be the only authentication."""
    settings = settings_of(convention=["{base}/team/{name}", "mlflow"], headers={"Authorization": SECRET})
    assert settings.convention == ("{base}/team/{name}", "mlflow")
    assert settings.headers["Authorization"].get_secret_value() == SECRET
