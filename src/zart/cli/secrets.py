"""Passwords stay out of every message, also of those that a driver words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

__all__ = ["without_secrets"]

_HIDDEN = "***"


def without_secrets(text: str, urls: Iterable[str]) -> str:
    """A text in which no password of these URLs stands any more."""
    for secret in sorted({s for url in urls for s in _secrets(url)}, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, _HIDDEN)
        else:  # so short that it may be a part of other words
            text = text.replace(f":{secret}@", f":{_HIDDEN}@")
    return text


def _secrets(url: str) -> set[str]:
    """What may be a password in a URL, however badly the URL is written.

    A password with a bare ``/``, ``#`` or ``@`` breaks the URL into other parts, and an error then
    names only one of them: each part counts as secret too.
    """
    found: set[str] = set(re.findall(r"[?&](?:password|passwd|sslpassword)=([^&#]+)", url))
    before_host, at, _ = url.rpartition("@")
    if at:
        user_and_password = before_host.partition("//")[2] or before_host
        password = user_and_password.partition(":")[2]
        found |= {password, *re.split(r"[/?#@:]", password)}
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if secret and secret != _HIDDEN}
