"""The keys of authentication and certificates, which registries and endpoints have alike."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from prinz_enricher.config.section import Section


class AccessKeys(Section):
    """Who we say we are, whose certificates are trusted, and which one is shown."""

    auth: Literal["auto", "none", "basic", "token", "oauth2", "databricks"] = Field(
        "auto", description="how requests are authenticated; auto is what the other keys say"
    )
    username: str = Field("", description="user of basic authentication")
    password: SecretStr = Field(SecretStr(""), description="its password")
    password_file: str = Field("", description="file with the password, read again when it changes")
    token: SecretStr = Field(SecretStr(""), description="bearer token")
    token_file: str = Field("", description="file with the bearer token, read again when it changes")
    oauth2_token_url: str = Field("", description="token endpoint of OAuth 2.0 (client credentials)")
    oauth2_client_id: str = Field("", description="client id there")
    oauth2_client_secret: SecretStr = Field(SecretStr(""), description="client secret there")
    oauth2_client_secret_file: str = Field("", description="file with the client secret, read again when it changes")
    oauth2_scope: str = Field("", description="scope asked for; with databricks, all-apis where it is empty")
    oauth2_audience: str = Field("", description="audience asked for, where the token endpoint wants one")
    ca_file: str = Field("", description="PEM file of the only authorities that are trusted for https")
    client_certificate: str = Field("", description="PEM file of the certificate that is shown to the server")
    client_key: str = Field("", description="PEM file of its key, without a password, where it is not in the same file")
