"""The benchmark: Reedbed, nginx and this machine's limits, one after the other, as often as there are repetitions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import reedbed
from reedbed.bench.clients import Clients
from reedbed.bench.content import Content
from reedbed.bench.limits import measure
from reedbed.bench.local import disk_bytes, kill
from reedbed.bench.machine import machine, medium
from reedbed.bench.measured import Measurement, Window, busy_seconds, combine, cpu_seconds, resident
from reedbed.bench.memory import supply
from reedbed.bench.nginx import INSTALL, Nginx, find_nginx, version_of
from reedbed.bench.orders import Hello
from reedbed.bench.rawhttp import run_forked
from reedbed.bench.report import FORMAT, KIND, NGINX, OURS, Report, Rows, Settings, value_of
from reedbed.bench.table import DEAD, DEGRADED, DEVICES, PUT, Row
from reedbed.bench.target import Target, fresh, fresh_cluster, measure_row, settle
from reedbed.common.errors import Corrupt, ReedbedError
from reedbed.transport.tls import TlsConfig

EXISTING: Final = "cluster"  # the medium of a cluster that was there before

_TIMEOUT_S: Final = 30.0
_DOWN_S: Final = 60.0
_LIMIT_S: Final = 0.6  # for each limit
_LIMIT_PART: Final = 4  # of the time of a row, at most


@dataclass
class Plan:
    """What is asked for. `folders` by medium; with an `endpoint` the one medium is that cluster's."""

    rows: Sequence[Row]
    folders: dict[str, Path]
    settings: Settings
    peer: bool = True
    endpoint: str | None = None
    tls: TlsConfig | None = None
    say: Callable[[str], None] = field(default=lambda text: None)


class Run:
    """One run of the benchmark."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._nginx = find_nginx() if plan.peer else None
        self._machine = machine()
        self._rows = {name: Rows(plan.rows, self._machine.cores) for name in plan.folders}

    def run(self) -> Report:
        """Measures everything. Corrupt where other bytes came back; other failures of a row are in the report."""
        began, start = datetime.now(UTC), time.monotonic()
        for repetition in range(self._plan.settings.repetitions):
            for name, folder in self._plan.folders.items():
                self._say(f"repetition {repetition + 1} of {self._plan.settings.repetitions}, {name}: {medium(folder)}")
                self._repetition(repetition, name, folder)
        return Report(
            format=FORMAT,
            kind=KIND,
            reedbed=reedbed.__version__,
            began=began.isoformat(timespec="seconds"),
            took_s=round(time.monotonic() - start, 1),
            machine=self._machine,
            nginx=self._nginx_words(),
            settings=self._plan.settings,
            media={name: rows.report(name, self._words(name)) for name, rows in self._rows.items()},
        )

    def _nginx_words(self) -> str:
        if self._nginx:
            return f"{version_of(self._nginx)}, one copy, not synced"
        return f"not measured: it is not installed ({INSTALL})" if self._plan.peer else "not measured: not asked for"

    def _words(self, name: str) -> str:
        return str(self._plan.endpoint) if name == EXISTING else medium(self._plan.folders[name])

    def _say(self, text: str) -> None:
        self._plan.say(text)

    def _repetition(self, repetition: int, name: str, folder: Path) -> None:
        rows = self._rows[name]
        rows.begin()
        groups = list(dict.fromkeys(row.group for row in self._plan.rows))
        for group in groups:
            members = [row for row in self._plan.rows if row.group == group]
            settle(folder)
            with self._target(folder, name) as target:
                self._ours(repetition, rows, members, target)
            if self._nginx:
                settle(folder)
                with fresh(folder, "nginx") as place, Nginx(place) as server:
                    self._theirs(rows, members, server)
        settle(folder)
        with fresh(folder, "limits") as place:
            place.mkdir()
            rows.limits.append(measure(place, min(_LIMIT_S, self._plan.settings.seconds / _LIMIT_PART)))

    def _target(self, folder: Path, name: str) -> AbstractContextManager[Target]:
        """The cluster to be measured: a fresh one, or that which is there."""
        if name == EXISTING:
            assert self._plan.endpoint is not None
            return nullcontext(Target(self._plan.endpoint, self._plan.tls))
        return fresh_cluster(folder)

    def _ours(self, repetition: int, rows: Rows, members: Sequence[Row], target: Target) -> None:
        """All rows of a group against one cluster."""
        bucket = f"bench-{os.urandom(6).hex()}"
        hello = Hello(target.endpoint, _TIMEOUT_S, target.tls, bucket, "p")
        with ExitStack() as stack:
            one = stack.enter_context(Clients(hello, 1))
            one.probe()
            many: Clients | None = None
            for row in members:
                missing = [name for name in row.after if not rows.has(name)]
                if missing:
                    rows.fail(row, f"{missing[0]} failed")
                    continue
                try:
                    if row.processes == 1:
                        clients = one
                    elif many is None:
                        clients = many = Clients(
                            Hello(hello.endpoint, hello.timeout, hello.tls, bucket, "m"), row.processes
                        )
                        stack.callback(many.close)
                    else:
                        clients = many
                    self._measure(repetition, rows, row, clients, target)
                    last = row.processes > 1 and row.kind != PUT
                    if last and many is not None:
                        many.close()
                except Corrupt:
                    raise
                except ReedbedError as error:
                    self._failed(rows, row, error)
            if not target.known:
                one.clean()

    def _measure(self, repetition: int, rows: Rows, row: Row, clients: Clients, target: Target) -> None:
        if row.kind == DEGRADED:
            first = DEAD * repetition % DEVICES
            for pid in target.storaged[first : first + DEAD]:
                kill(pid)
            clients.wait_down(DEAD, _DOWN_S)
        measurement, times = measure_row(clients, row, target, self._plan.settings.seconds)
        rows.add(OURS, row, measurement, times)
        self._measured(row, measurement)

    def _theirs(self, rows: Rows, members: Sequence[Row], server: Nginx) -> None:
        """The same rows by nginx."""
        stored: dict[tuple[int, int], list[int]] = {}
        content: Content | None = None
        for row in members:
            if not row.with_nginx:
                continue
            if content is None or content.size != row.size:
                content = Content(row.size)
            has = stored.get((row.size, row.concurrency), [])
            if row.kind != PUT and not has:
                continue  # the row before failed
            watch = _Watch(server, row)
            try:
                windows = run_forked(server, row, content, has, self._plan.settings.seconds, watch)
            except Corrupt:
                raise
            except ReedbedError as error:
                self._failed(rows, row, error, f"{NGINX}: ")
                continue
            if row.kind == PUT:
                stored[row.size, row.concurrency] = [window.operations for window in windows]
            measurement, times = combine(windows, row.bytes_each, watch.cpu, watch.rss)
            measurement.others = max(0.0, watch.busy - sum(measurement.cpu.values()))
            measurement.disk = watch.disk
            rows.add(NGINX, row, measurement, times)
            self._measured(row, measurement, f", {NGINX}")

    def _measured(self, row: Row, measurement: Measurement, who: str = "") -> None:
        value = value_of(row.unit, measurement)
        self._say(f"  {row.name}{who}: {value:,.1f} {row.unit}, {measurement.cpu_ms:.3f} ms CPU each")

    def _failed(self, rows: Rows, row: Row, error: ReedbedError, who: str = "") -> None:
        why = f"{who}{error.code}: {error}"
        rows.fail(row, why)
        self._say(f"  {row.name}: {why}")


class _Watch:
    """What nginx and the machine use while a row runs."""

    def __init__(self, server: Nginx, row: Row) -> None:
        self._server = server
        self._put = row.puts
        self._supply = row.stored_most if row.puts else 0
        self.cpu: dict[str, float] = {}
        self.rss: dict[str, int] = {}
        self.disk: dict[str, int] = {}
        self.busy = 0.0

    def __call__(self, run: Callable[[], list[Window]]) -> list[Window]:
        supply(self._supply)
        held = self._held()
        busy, used = busy_seconds(), cpu_seconds(self._server.pids)
        windows = run()
        self.cpu[NGINX] = cpu_seconds(self._server.pids) - used
        self.busy = busy_seconds() - busy
        self.rss[NGINX] = resident(self._server.pids)
        if self._put:
            self.disk["devices"] = self._held() - held
        return windows

    def _held(self) -> int:
        return disk_bytes([self._server.files]) if self._put else 0
