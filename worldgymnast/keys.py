"""Rules for which API key may be sent to which server.

A judge's file names a server and the environment variable that holds its key, and such files are shared between users.
Three rules protect the keys:

- a provider's key is sent only to that provider or to this machine;
- any other variable must be allowed on the command line (--allow-key);
- no key leaves this machine unencrypted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worldgymnast.errors import FieldError, InputError

FLAG = "--allow-key"
PROVIDERS: dict[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("api.openai.com", "eu.api.openai.com", "us.api.openai.com"),
    "ANTHROPIC_API_KEY": ("api.anthropic.com",),
    "GEMINI_API_KEY": ("generativelanguage.googleapis.com",),
    "GOOGLE_API_KEY": ("generativelanguage.googleapis.com",),
    "MISTRAL_API_KEY": ("api.mistral.ai",),
    "GROQ_API_KEY": ("api.groq.com",),
    "OPENROUTER_API_KEY": ("openrouter.ai",),
    "TOGETHER_API_KEY": ("api.together.xyz", "api.together.ai"),
    "FIREWORKS_API_KEY": ("api.fireworks.ai",),
    "DEEPINFRA_API_KEY": ("api.deepinfra.com",),
    "DEEPSEEK_API_KEY": ("api.deepseek.com",),
    "DASHSCOPE_API_KEY": ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"),
    "MOONSHOT_API_KEY": ("api.moonshot.ai", "api.moonshot.cn"),
    "NVIDIA_API_KEY": ("integrate.api.nvidia.com",),
    "CEREBRAS_API_KEY": ("api.cerebras.ai",),
    "SAMBANOVA_API_KEY": ("api.sambanova.ai",),
    "XAI_API_KEY": ("api.x.ai",),
    "HF_TOKEN": ("router.huggingface.co",),
}
"""Environment variables of known providers, and the hosts that may receive their keys."""

_URL = re.compile(r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(/[A-Za-z0-9._~%!$&'()*+,;=:/-]*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_allowed: set[str] = set()
_announced: set[str] = set()


@dataclass(frozen=True)
class Address:
    """Address of a server.

    Attributes:
        scheme: "http" or "https".
        host: in lower case; an IPv6 address without brackets.
        port: None for the scheme's default.
    """

    scheme: str
    host: str
    port: int | None

    @property
    def origin(self) -> str:
        """The address as text, such as https://api.openai.com."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port else "")

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, regardless of DNS."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, or an ambiguous number
            return False


def parse_address(url: str) -> Address:
    """Parse the URL of a server.

    Only unambiguous URLs are accepted. User names, backslashes, whitespace and non-ASCII letters are parsed
    differently by different programs, which could send a key to a host that was not checked.

    Raises:
        InputError: the URL is not accepted.

    >>> parse_address("http://127.0.0.1:8000/v1").origin
    'http://127.0.0.1:8000'
    """
    if "@" in url or "?" in url:  # may contain a secret, so the message does not repeat it
        raise FieldError(
            "url",
            "found a user, password or query, expected none; put the key into the environment variable that "
            "'key_variable' names",
        )
    match = _URL.fullmatch(url)
    host = match[2].lower().strip("[]") if match else ""
    port = int(match[3]) if match and match[3] else None
    if match is None or not _is_host(host, is_bracketed=match[2].startswith("[")) or port == 0 or (port or 0) > 65535:
        shown = "".join(c if c.isprintable() else "?" for c in url[:100])
        raise FieldError("url", f"found '{shown}', expected an address such as http://127.0.0.1:8000/v1")
    return Address(match[1], host, port)


def _is_host(host: str, is_bracketed: bool) -> bool:
    if is_bracketed:
        try:
            return ipaddress.ip_address(host).version == 6
        except ValueError:
            return False
    return all(0 < len(label) <= 63 for label in host.removesuffix(".").split("."))


# ---------------------------------------------------------------- permissions of the command line


@contextmanager
def allow_keys(names: Iterable[str]) -> Iterator[None]:
    """Allow keys for the duration of a command.

    Args:
        names: VARIABLE or VARIABLE@HOST.

    Raises:
        InputError: a name has neither form.
    """
    new = {_normalize(name) for name in names} - _allowed
    _allowed.update(new)
    try:
        yield
    finally:
        _allowed.difference_update(new)
        _announced.clear()


def _normalize(name: str) -> str:
    variable, at, host = name.partition("@")
    if not _VARIABLE.fullmatch(variable) or (at and not re.fullmatch(r"[A-Za-z0-9.:-]+", host)):
        raise InputError(
            f"{FLAG}: found an invalid variable name, expected VARIABLE or VARIABLE@HOST, such as "
            "OPENAI_API_KEY@proxy.example.org; never the key itself"
        )
    host = re.sub(r"^([^:]+):\d+$", r"\1", host)  # without the port
    return f"{variable}{at}{host.lower()}"


def check_variable(variable: str) -> None:
    """Raise InputError for an invalid variable name.

    The message does not repeat the name, which may be the key itself.
    """
    if not _VARIABLE.fullmatch(variable):
        raise FieldError(
            "key_variable",
            "found an invalid variable name, expected the environment variable that holds the key, such as "
            "OPENAI_API_KEY",
        )


def withhold_reason(variable: str, url: str) -> str | None:
    """Reason and fix for a key that is not sent.

    None if it may be sent.

    Args:
        variable: the environment variable that holds the key.
        url: URL of the server.

    Raises:
        InputError: the variable is not a known provider's and is not allowed on the command line.
    """
    address = parse_address(url)
    is_named = f"{variable}@{address.host}" in _allowed
    is_known = variable in PROVIDERS
    if not is_known and not is_named and variable not in _allowed:
        raise FieldError(
            "key_variable",
            f"found {variable}, expected the variable of a known provider. The key would be sent to "
            f"{address.origin}. Add {FLAG} {variable} if you trust that server.",
        )
    is_permitted = is_named or not is_known or address.host in PROVIDERS[variable]
    if address.is_loopback or (address.scheme == "https" and is_permitted):
        return None
    if address.scheme == "http":
        return (
            f"{variable} is not sent to {address.origin}: keys are sent over plain http to this machine only; "
            "use https if that server needs a key"
        )
    return (
        f"{variable} is not sent to {address.origin}: it belongs to {PROVIDERS[variable][0]}; add "
        f"{FLAG} {variable}@{address.host} if that server needs it"
    )


def needs_permission(variable: str, url: str) -> bool:
    """Whether a key requires permission by the command line."""
    address = parse_address(url)
    if variable not in PROVIDERS:
        return True
    return address.scheme == "https" and not address.is_loopback and address.host not in PROVIDERS[variable]


def announce(line: str) -> None:
    """Print a line about a key once per command."""
    if line not in _announced:
        _announced.add(line)
        print(line)
