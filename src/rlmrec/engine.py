"""Engine: computes the independent parts of a stage in this process, or by the workers of Ray.

Chunks of texts, trials, ranges of users and requests do not depend on each other, so their results are the same on
both. Ray is an extra, never the default: it takes seconds to start and some hundred megabytes.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from typing import Any, TypeVar

from rlmrec.errors import ConfigError, EngineError

Item = TypeVar("Item")
Result = TypeVar("Result")
# Makes the function that computes an item. It runs once in each worker: this is where a model is loaded.
Start = Callable[[], Callable[[Item], Result]]
ENGINES = ("local", "ray")
RETRIES = 3  # times that Ray repeats an item whose worker died
REACH_SECONDS = 5  # to wait for a cluster's address; Ray itself tries for minutes


class Engine:
    """Computes items in this process, one after the other.

    Example:
        >>> list(Engine().map(lambda: str.upper, ["a", "b"]))
        [(0, 'A'), (1, 'B')]
    """

    def map(
        self,
        start: Start[Item, Result],
        items: Iterable[Item],
        *,
        in_order: bool = False,
        at_once: int | None = None,
        cpus: int = 1,
        died: Callable[[int, str], Result] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield (number of the item, its result) as results arrive.

        Args:
            start: makes the function that computes an item. ``RayEngine`` sends it to the workers.
            items: what to compute; they are read as workers become free.
            in_order: yield the results in the order of the items.
            at_once: most items at once; by default two for each CPU, so that no worker waits.
            cpus: cores that an item needs.
            died: makes the result of an item whose worker died each time; by default that is an error.

        Raises:
            EngineError: a worker died ``RETRIES`` + 1 times over the same item.
            RlmrecError: what the function raises.
        """
        del in_order, at_once, cpus, died  # one at a time in this process, which nothing survives
        work = start()
        for number, item in enumerate(items):
            yield number, work(item)


class RayEngine(Engine):
    """Gives items to the workers of Ray, on this machine or on a cluster.

    Ray is started here unless the program has started it already. Every machine of a cluster needs this version of
    rlmrec. Ray reports no usage unless RAY_USAGE_STATS_ENABLED=1 is set.

    Args:
        address: HOST:PORT of a running cluster, or "auto" for the one that this machine belongs to; None starts Ray on
            this machine alone, where only programs of this machine reach it.
        gpus: devices that an item needs.

    Raises:
        ConfigError: the ``ray`` extra is not installed, or there is no cluster at the address.

    Source: https://docs.ray.io/en/latest/ray-core/tasks.html
    """

    def __init__(self, address: str | None = None, gpus: int = 0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its behaviour in future versions
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise ConfigError("--engine ray needs Ray: pip install 'rlmrec[ray]'") from None
        self.ray, self.gpus = ray, gpus
        self._started_here = not ray.is_initialized()
        if self._started_here:
            if address is not None:
                _check_reachable(address)
            here = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {}
            try:
                ray.init(address or "local", logging_level="ERROR", log_to_driver=False, **here)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise _no_cluster(address or "this machine", error) from None

    def close(self) -> None:
        """Stop Ray, or leave the cluster, unless Ray was running before this object was made."""
        if self._started_here:
            self.ray.shutdown()

    @property
    def cpus(self) -> int:
        """Number of CPUs that the cluster has now."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    @property
    def cpus_of_a_machine(self) -> int:
        """Number of CPUs of the cluster's largest machine: an item cannot have more."""
        return max(1, *(int(node["Resources"].get("CPU", 1)) for node in self.ray.nodes() if node["Alive"]))

    def map(
        self,
        start: Start[Item, Result],
        items: Iterable[Item],
        *,
        in_order: bool = False,
        at_once: int | None = None,
        cpus: int = 1,
        died: Callable[[int, str], Result] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield (number of the item, its result) as workers finish; see ``Engine.map``."""
        ray = self.ray
        key, sent = uuid.uuid4().hex, [self._send(start)]
        # max_calls: a GPU's worker would otherwise end after each item, and load its model again.
        task = ray.remote(
            num_cpus=cpus, num_gpus=self.gpus, max_retries=RETRIES, max_calls=0, scheduling_strategy="SPREAD"
        )(_work)
        waiting = enumerate(items)
        running: dict[Any, int] = {}
        ready: dict[int, Result] = {}
        next_number = 0
        try:
            while True:
                free = (at_once or 2 * self.cpus) - len(running) - len(ready)
                for number, item in islice(waiting, max(0, free)):
                    running[task.remote(key, sent, item)] = number
                if not running:
                    return
                [done], _ = ray.wait(list(running))
                number = running.pop(done)
                ready[number] = self._result(done, number, died)
                del done  # lets Ray free the result
                if not in_order:
                    yield number, ready.pop(number)
                while next_number in ready:
                    yield next_number, ready.pop(next_number)
                    next_number += 1
        finally:
            for left in running:
                ray.cancel(left, force=True)

    def service(
        self, start: Callable[[], Callable[[Item], Awaitable[Result]]], copies: int, at_once: int
    ) -> Callable[[Item], Awaitable[Result]]:
        """Start workers that each compute many items at once; return a coroutine function that asks them in turn.

        Args:
            start: makes the coroutine function that computes an item.
            copies: number of workers.
            at_once: most items that a worker computes at once.
        """
        actor = self.ray.remote(_Server).options(
            num_cpus=min(1.0, self.cpus / copies), max_concurrency=at_once, scheduling_strategy="SPREAD",
            max_restarts=RETRIES, max_task_retries=RETRIES,
        )  # fmt: skip
        sent = self._send(start)
        turns = cycle([actor.remote(sent) for _ in range(copies)])

        async def ask(item: Item) -> Result:
            try:
                answer: Result = await next(turns).call.remote(item)
            except self.ray.exceptions.RayError as error:
                raise _cause(error) from None
            return answer

        return ask

    def _send(self, start: Any) -> Any:
        """Put a function and what it refers to into the memory that the workers of a machine share."""
        try:
            return self.ray.put(start)
        except (TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"Ray cannot send this to its workers ({reason}): leave out --engine") from None

    def _result(self, done: Any, number: int, died: Callable[[int, str], Result] | None) -> Result:
        try:
            result: Result = self.ray.get(done)
            return result
        except self.ray.exceptions.RayError as error:
            cause = _cause(error)
            if died is not None and isinstance(cause, EngineError):
                return died(number, str(cause))
            raise cause from None


def _check_reachable(address: str) -> None:
    """Refuse HOST:PORT, or ray://HOST:PORT, where nothing listens; other addresses, such as "auto", are Ray's.

    Raises:
        ConfigError: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:  # a port above 65,535 overflows
        raise _no_cluster(address, error) from None


def _no_cluster(place: str, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0]
    return ConfigError(
        f"no Ray cluster answers at {place} ({reason}): check --address, start one with 'ray start --head', or leave "
        "out --address to start Ray here"
    )


def _cause(error: Any) -> Exception:
    """Return what a worker's function raised, or an error that says that workers died."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return cause
    said = " ".join(str(error).split())[:200]
    return EngineError(
        f"a worker of Ray died {RETRIES + 1} times ({type(error).__name__}: {said}). Memory may be short: run fewer "
        "at once, then repeat the command to resume"
    )


_started: dict[str, Any] = {}  # in a worker: the function of the stage that it works for


def _work(key: str, sent: list[Any], item: Any) -> Any:
    """Compute an item in a worker; its first one makes the function."""
    if key not in _started:
        _started.clear()
        _started[key] = import_module("ray").get(sent[0])()
    return _started[key](item)


class _Server:
    """A worker that computes many items at once."""

    def __init__(self, start: Callable[[], Callable[[Any], Awaitable[Any]]]) -> None:
        self._work = start()

    async def call(self, item: Any) -> Any:
        return await self._work(item)


@contextmanager
def open_engine(
    name: str = "local",
    address: str | None = None,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Iterator[Engine]:
    """Open the engine that ``--engine`` names, and stop it at the end.

    Args:
        name: one of ``ENGINES``.
        address: of Ray, see ``RayEngine``.
        device: "cuda" gives each item of Ray a device.
        say: called with a line before Ray starts, which takes seconds.

    Raises:
        ConfigError: no such engine, an address without Ray, or Ray cannot be used.
    """
    if name not in ENGINES:
        raise ConfigError(f"--engine {name!r}: expected one of {', '.join(ENGINES)}")
    if name == "local":
        if address is not None:
            raise ConfigError(f"--address {address} is of a Ray cluster: add --engine ray")
        yield Engine()
        return
    if "," in device:
        raise ConfigError(
            f"--device {device}: Ray assigns devices itself, give --device cuda with --engine ray"
        )
    if say is not None:
        say("starting Ray on this machine" if address is None else "joining the Ray cluster")
    engine = RayEngine(address, gpus=int(device == "cuda"))
    if say is not None:
        say(f"Ray has {engine.cpus} CPUs")
    try:
        yield engine
    finally:
        engine.close()


def bound(function: Callable[..., Result], *arguments: Any) -> Callable[[], Callable[[Any], Result]]:
    """Return a ``Start`` of a function whose first arguments are the same for all items."""
    return partial(partial, function, *arguments)
