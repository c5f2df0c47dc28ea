"""Which key may go where.

A description of a judge names a server and the environment variable with its key, and descriptions are passed on
between people. So a well-known key goes only to its own provider or to this machine, any other variable must be named
on the command line, and no key leaves this machine unencrypted.
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
"""Environment variables of well-known providers, and the hosts that their keys are for."""

_URL = re.compile(r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(/[A-Za-z0-9._~%!$&'()*+,;=:/-]*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_granted: set[str] = set()
_announced: set[str] = set()


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        scheme: "http" or "https".
        host: lower case, an IPv6 address without its brackets.
        port: None for the scheme's own.
    """

    scheme: str
    host: str
    port: int | None

    @property
    def origin(self) -> str:
        """The address as it is shown, such as https://api.openai.com."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port else "")

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine itself, whatever a name server says."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, or a number in a form that programs read differently
            return False


def address(url: str) -> Address:
    """Read the address of a server.

    Only plain addresses are taken: what two programs may read differently (user names, back slashes, white space,
    letters other than ASCII) could send a key to another host than the one that was checked.

    Raises:
        InputError: it is none.

    >>> address("http://127.0.0.1:8000/v1").origin
    'http://127.0.0.1:8000'
    """
    if "@" in url or "?" in url:  # may hold a secret, so it is not repeated
        raise FieldError("url", "found a user, password or query in it, expected none; put the key into the "
                         "environment variable that 'key_variable' names")  # fmt: skip
    found = _URL.fullmatch(url)
    host = found[2].lower().strip("[]") if found else ""
    port = int(found[3]) if found and found[3] else None
    if found is None or not _is_host(host, bracketed=found[2].startswith("[")) or port == 0 or (port or 0) > 65535:
        shown = "".join(c if c.isprintable() else "?" for c in url[:100])
        raise FieldError("url", f"found '{shown}', expected an address such as http://127.0.0.1:8000/v1")
    return Address(found[1], host, port)


def _is_host(host: str, bracketed: bool) -> bool:
    if bracketed:
        try:
            return ipaddress.ip_address(host).version == 6
        except ValueError:
            return False
    return all(0 < len(label) <= 63 for label in host.removesuffix(".").split("."))


# ---------------------------------------------------------------- what the user permits


@contextmanager
def granted(words: Iterable[str]) -> Iterator[None]:
    """Permit keys while a command runs.

    Args:
        words: each the name of an environment variable, or VARIABLE@HOST.

    Raises:
        InputError: one is neither.
    """
    new = {_grant(word) for word in words} - _granted
    _granted.update(new)
    try:
        yield
    finally:
        _granted.difference_update(new)
        _announced.clear()


def _grant(word: str) -> str:
    variable, at, host = word.partition("@")
    if not _VARIABLE.fullmatch(variable) or (at and not re.fullmatch(r"[A-Za-z0-9.:-]+", host)):
        raise InputError(f"{FLAG}: found what is no variable's name, expected VARIABLE or VARIABLE@HOST, such as "
                         "OPENAI_API_KEY@proxy.example.org; never the key itself")  # fmt: skip
    host = re.sub(r"^([^:]+):\d+$", r"\1", host)  # a port is no part of it
    return f"{variable}{at}{host.lower()}"


def check_variable(variable: str) -> None:
    """Raise InputError where it is no variable's name; it may be the key itself, so it is not repeated."""
    if not _VARIABLE.fullmatch(variable):
        raise FieldError("key_variable", "found what is no variable's name, expected that of the environment "
                         "variable that holds the key, such as OPENAI_API_KEY")  # fmt: skip


def withheld(variable: str, url: str) -> str | None:
    """Why a well-known key does not go to a server, and what to do about it; None where it may go.

    Args:
        variable: the environment variable that holds the key.
        url: the server's.

    Raises:
        InputError: the variable is not a well-known one and was not named on the command line.
    """
    to = address(url)
    named = f"{variable}@{to.host}" in _granted
    is_known = variable in PROVIDERS
    if not is_known and not named and variable not in _granted:
        raise FieldError("key_variable", f"found {variable}, which would be sent to {to.origin}, expected the "
                         f"variable of a well-known provider; add {FLAG} {variable} if you trust that server with "
                         "it")  # fmt: skip
    if to.is_loopback or (to.scheme == "https" and (named or not is_known or to.host in PROVIDERS[variable])):
        return None
    if to.scheme == "http":
        return (f"{variable} is not sent to {to.origin}: no key goes over plain http but to this machine; "
                "use https if that server needs one")  # fmt: skip
    return (f"{variable} is not sent to {to.origin}: it is for {PROVIDERS[variable][0]}; add "
            f"{FLAG} {variable}@{to.host} if that server needs it")  # fmt: skip


def needs_grant(variable: str, url: str) -> bool:
    """Whether a key goes to a server only where the command line names it."""
    to = address(url)
    if variable not in PROVIDERS:
        return True
    return to.scheme == "https" and not to.is_loopback and to.host not in PROVIDERS[variable]


def announce(line: str) -> None:
    """Print a line about a key once a command."""
    if line not in _announced:
        _announced.add(line)
        print(line)
