"""`python -m deploy.processes up | down | status | logs`; `create_environment.sh` calls it."""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import httpx

from deploy.processes import database
from deploy.processes.files import write_files
from deploy.processes.place import ROOT, Place
from deploy.processes.programs import Program, programs
from deploy.processes.supervision import Supervisor

HEALTHY_SECONDS = 180.0
"""How long a program may take to be well."""


class EnvironmentFailed(Exception):
    """Something of the environment does not come up; the message says what, and where its log is."""


def main() -> int:
    """Do what is asked; returns the exit status."""
    parser = argparse.ArgumentParser(prog="create_environment.sh")
    parser.add_argument("command", choices=("up", "down", "status", "logs"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--volumes", action="store_true")
    parser.add_argument("--follow", action="store_true")
    asked = parser.parse_args()
    place = Place.of_environment()
    try:
        match asked.command:
            case "up":
                up(place)
            case "down":
                down(place, volumes=asked.volumes)
            case "status":
                return 0 if show_status(place) else 1
            case "logs":
                return show_logs(place, asked.names, follow=asked.follow)
    except (EnvironmentFailed, RuntimeError) as error:
        print(f"create_environment.sh: {error}", file=sys.stderr)
        return 1
    return 0


def up(place: Place) -> None:
    """Start everything that does not run, and wait until all of it is well.

    Raises:
        EnvironmentFailed: Something does not come up.
    """
    began = time.monotonic()
    every = programs(place)
    supervisor = Supervisor(place)
    if not supervisor.runs:
        check_ports(place)
    if not place.keeps_objects:
        print("the S3 server is moto's, in memory: `down` removes all data (with Go installed, it is VersityGW)")
    else:
        print(f"the S3 server is {place.bucket_server}")
    database.make_database(place)
    other_rules = write_files(place, every)
    supervisor.start()
    trained = False
    waiting = list(every)
    well: set[str] = set()
    end = {one.name: time.monotonic() + HEALTHY_SECONDS for one in every}
    while waiting:
        for one in list(waiting):
            if not set(one.needs) <= well:
                end[one.name] = time.monotonic() + HEALTHY_SECONDS
                continue
            if one.page.endswith("/invocations") and not trained:
                trained = train(place)
                end = {name: time.monotonic() + HEALTHY_SECONDS for name in end}
            supervisor.run(one.name)
            if is_well(place, one):
                if one.name == "postgres":
                    database.make_first_database(place)
                if one.name == "proxy" and other_rules:
                    supervisor.signal("proxy", "HUP")
                print(f"{time.monotonic() - began:5.0f} s  {one.name} is healthy", flush=True)
                well.add(one.name)
                waiting.remove(one)
            elif time.monotonic() > end[one.name]:
                log = place.logs / f"{one.name}.log"
                end_of_it = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
                raise EnvironmentFailed(f"{one.name} is not healthy. The end of {log}:\n{end_of_it}")
        time.sleep(0.2)
    print(f"{time.monotonic() - began:5.0f} s  all healthy\n")
    show_pages(every)


def check_ports(place: Place) -> None:
    """See that every port is free.

    Raises:
        EnvironmentFailed: Some are not.
    """
    taken = []
    for name, port in place.ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((place.listen if name in {"PROXY_PORT", "S3_PORT", "PRINZ_API_PORT"} else "127.0.0.1", port))
            except OSError:
                taken.append(f"{name}={port}")
    if taken:
        raise EnvironmentFailed(f"these ports are taken: {', '.join(taken)}; choose others in .env")


def train(place: Place) -> bool:
    """Train and register the sample models that are not there yet."""
    log = place.logs / "trainer.log"
    with log.open("ab") as output:
        done = subprocess.run(
            [place.mlflow / "bin" / "python", "-m", "samples.train", "--registry", place.registry],
            cwd=ROOT, env=place.client_variables() | {"PATH": f"{place.mlflow}/bin:/usr/bin:/bin"},
            stdout=output, stderr=output, check=False,
        )  # fmt: skip
    if done.returncode:
        raise EnvironmentFailed(f"the sample models could not be trained; see {log}")
    return True


def is_well(place: Place, program: Program) -> bool:
    """Ask a program how it is."""
    if program.health == "postgres":
        return database.answers(place)
    try:
        # A bucket's server refuses who does not sign, and is well.
        answer = httpx.get(program.health, timeout=5.0, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.is_success or (program.name == "bucket" and answer.status_code == httpx.codes.FORBIDDEN)


def down(place: Place, *, volumes: bool) -> None:
    """Stop everything.

    Args:
        place: Where everything is.
        volumes: Whether the data go as well.
    """
    left = Supervisor(place).end()
    if left:
        print(f"ended without their supervisor: {', '.join(map(str, left))}")
    # Models whose files are gone would be listed, and served by nobody.
    forgets = not place.keeps_objects
    if volumes or forgets:
        place.chosen_bucket_server.unlink(missing_ok=True)
        database.remove_database(place)
        for folder in ("bucket", "cache"):
            shutil.rmtree(place.home / folder, ignore_errors=True)
    why = "" if volumes or not forgets else " with the S3 server, which keeps them in memory"
    print("all is stopped" + (f", and the data are gone{why}" if volumes or forgets else ""))


def show_status(place: Place) -> bool:
    """Tell what runs, and how it fares; returns whether all is well."""
    supervisor = Supervisor(place)
    every = programs(place)
    if not supervisor.runs:
        print("nothing runs")
        return False
    all_well = True
    for one in every:
        known = supervisor.state(one.name)
        well = known["statename"] == "RUNNING" and is_well(place, one)
        all_well &= well
        print(f"{one.name:16} {known['statename']:9} {'healthy' if well else 'not healthy':12} {known['description']}")
    print()
    show_pages(every)
    return all_well


def show_pages(every: Sequence[Program]) -> None:
    """Tell where what people and callers use is."""
    for one in every:
        if one.page:
            print(f"{one.name:16} {one.page}")


def show_logs(place: Place, names: Sequence[str], *, follow: bool) -> int:
    """Show the end of logs; returns the exit status."""
    files = sorted(place.logs.glob("*.log"))
    if names:
        files = [file for file in files if file.stem in names]
    if not files:
        print(f"no such log in {place.logs}", file=sys.stderr)
        return 1
    return subprocess.run(["tail", "-n", "50", *(["-F"] if follow else []), *files], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
