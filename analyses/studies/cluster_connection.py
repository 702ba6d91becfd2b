"""Connect to a Ray cluster, with errors in one line."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apet.errors import MissingInput, UsageError

CONNECT = 5.0  # seconds in which the cluster must answer


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to the cluster while the block lasts, and yield the module ray."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise MissingInput("--ray needs the package ray: install the extra 'cluster' (pip install apet-landscape[cluster])") from None
    if address.startswith("ray://"):
        raise UsageError("the driver must run on a node of the cluster: start the command there, with --ray auto")
    if address not in ("auto", "local"):
        _answers(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        ray.shutdown()
        known = (
            "on this machine: start one with 'ray start --head'"
            if address == "auto"
            else f"at {address}, or it asks for a token: set RAY_AUTH_MODE=token for the latter"
        )
        raise MissingInput(f"no Ray cluster was found {known}") from None
    except (RuntimeError, ValueError) as error:  # for instance another version of Ray or Python
        ray.shutdown()
        raise UsageError(f"the Ray cluster at {address} cannot be joined: {' '.join(str(error).split())}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Raise UsageError or MissingInput unless a program accepts connections at HOST:PORT. Ray itself waits for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise UsageError(f"--ray takes auto, local or HOST:PORT (got: {address})")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise MissingInput(f"no Ray cluster answers at {address} ({error.strerror or error})") from None
