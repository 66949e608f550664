"""The files that programs read, made from the templates that the containers use too."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.processes.place import MODELS, ROOT, Place
from deploy.processes.programs import Program

_NGINX = """\
# Around the rules of deploy/proxy/default.conf.template.
daemon off;
worker_processes 1;
pid "{home}/nginx.pid";
{user}
events {{
  worker_connections 1024;
}}
http {{
  access_log "{logs}/proxy-access.log";
  client_body_temp_path "{home}/nginx/body";
  proxy_temp_path "{home}/nginx/proxy";
  fastcgi_temp_path "{home}/nginx/fastcgi";
  uwsgi_temp_path "{home}/nginx/uwsgi";
  scgi_temp_path "{home}/nginx/scgi";
  include "{home}/nginx/default.conf";
}}
"""

_SUPERVISOR = """\
[supervisord]
logfile = {logs}/supervisor.log
pidfile = {home}/supervisor.pid
childlogdir = {logs}
{user}
[unix_http_server]
file = {socket}
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command = {command}
directory = {home}
environment = {environment}
autostart = false
autorestart = true
startsecs = 1
startretries = 1000
stopsignal = {stop}
stopwaitsecs = 40
stopasgroup = {group}
killasgroup = true
redirect_stderr = true
stdout_logfile = {logs}/{name}.log
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 2
{user}
"""


def write_files(place: Place, programs: Sequence[Program]) -> bool:
    """Write all files; returns whether the proxy's rules are other than before."""
    (place.home / "nginx").mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "deploy" / "prinz-enricher" / "prinz.toml", place.home / "prinz.toml")
    write(place.home / "supervisord.conf", _supervisor(place, programs))
    user = "user root;" if os.geteuid() == 0 else ""
    write(place.home / "nginx.conf", _NGINX.format(home=place.home, logs=place.logs, user=user))
    return write(place.home / "nginx" / "default.conf", proxy_rules(place))


def proxy_rules(place: Place) -> str:
    """Fill the proxy's template in, as the image of nginx does: only the variables that are ours."""
    values = {
        "PROXY_LISTEN": f"{place.listen}:{place.ports['PROXY_PORT']}",
        "S3_LISTEN": f"{place.listen}:{place.ports['S3_PORT']}",
        "API_LISTEN": f"{place.listen}:{place.ports['PRINZ_API_PORT']}",
        "ENRICHER": f"127.0.0.1:{place.ports['ENRICHER_PORT']}",
        # Asked by nobody: all hosts are addresses.
        "RESOLVER": "127.0.0.1",
        "REGISTRY": f"127.0.0.1:{place.ports['MLFLOW_PORT']}",
        "BUCKET": f"127.0.0.1:{place.ports['BUCKET_PORT']}",
        **{host: f"127.0.0.1:{place.ports[f'{host}_PORT']}" for _, _, host in MODELS.values()},
    }
    template = (ROOT / "deploy" / "proxy" / "default.conf.template").read_text()
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], template)


def write(file: Path, text: str) -> bool:
    """Write a file, whole or not at all; returns whether it is other than before."""
    if file.exists() and file.read_text() == text:
        return False
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
        new.write(text)
    Path(new.name).replace(file)
    return True


def _supervisor(place: Place, programs: Sequence[Program]) -> str:
    # Without it, supervisord warns that it runs as root.
    user = "user = root" if os.geteuid() == 0 else ""
    head = _SUPERVISOR.format(home=place.home, logs=place.logs, socket=place.socket, user=user)
    return head + "".join(
        _PROGRAM.format(
            name=one.name,
            command=" ".join(_quoted(part) for part in one.command),
            home=place.home if not one.user else "/",
            environment=",".join(f"{name}={_quoted(value)}" for name, value in one.variables.items()),
            stop=one.stop,
            # PostgreSQL, nginx and prinz-enricher end their own processes, in the order that they want.
            group="true" if one.name == "mlflow" or one.name in MODELS else "false",
            logs=place.logs,
            user=f"user = {one.user}" if one.user else "",
        )
        for one in programs
    )


def _quoted(text: str) -> str:
    # supervisord expands %(…)s, and splits at blanks.
    return '"' + text.replace("%", "%%").replace('"', '\\"') + '"'
