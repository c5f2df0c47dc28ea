"""Starts a Ray of its own on this machine, or joins a cluster.

Every other module gets Ray from `load_ray`, so a missing installation is one line.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worldgymnast.errors import InputError

_OWN_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Environment of a Ray that is started here: no usage statistics."""
_REACH_SECONDS = 10
"""How long a cluster may take to accept a connection."""


def load_ray() -> Any:
    """Import Ray.

    Raises:
        InputError: Ray is not installed.
    """
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # Ray replaces builtins.print in this process otherwise
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "--pool ray: Ray is not installed, so there are no workers. Run: pip install 'worldgymnast[ray]'; or use "
            "--pool local"
        ) from None


@contextmanager
def connected(address: str = "", *, cpus: int = 1, store_bytes: int | None = None) -> Iterator[Any]:
    """Connect to Ray within the context.

    A Ray to which this process is already connected is used and left as it is.

    Args:
        address: of a running cluster, or "auto"; "" starts a Ray on this machine, which ends with the context, and
            with this process if it is killed. Every connection to it needs a token that only this process has.
        cpus: workers that a Ray started here admits.
        store_bytes: size of its object store; Ray's choice by default.

    Raises:
        InputError: Ray is not installed, does not start, or the address does not answer.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "worldgymnast"}
    try:
        if address:
            reach(address)
            ray.init(address=address, **quiet)
        else:
            _prepare_own()
            ray.init(
                address="local",  # else Ray joins another one on this machine
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=store_bytes,
                **quiet,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        first = str(error).strip().split("\n")[0]
        where = f"cluster {address}: does not answer" if address else "Ray does not start on this machine"
        fix = "Check --ray-address and RAY_AUTH_TOKEN" if address else "Free memory, or use --pool local"
        raise InputError(f"{where} ({first}). Nothing was rolled out. {fix}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_cluster(address: str) -> None:
    """Connect to a running cluster and leave it.

    Raises:
        InputError: Ray is not installed, or the address does not answer.
    """
    with connected(address):
        pass


def reach(address: str) -> None:
    """Raise an OSError soon if nothing listens at an address; Ray itself tries for minutes.

    Args:
        address: HOST:PORT; others, such as "auto", are not asked.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


def _prepare_own() -> None:
    """Set the environment of a Ray that is started here, with a token that only this process and its workers know.

    With a token, Ray turns its authentication on by itself.
    """
    for name, value in _OWN_SETTINGS.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
