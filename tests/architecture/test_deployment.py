"""Every file under deploy/ that is no manifest is held to the real schema, or the real tool, of what reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cases.manifests import DEPLOY, KUBERNETES, RENDERED, ROOT, pods_of

BIN = Path(sys.executable).parent


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_are_what_hadolint_wants_and_have_no_root(name):
    done = subprocess.run(
        [str(BIN / "hadolint"), str(DEPLOY / name)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    lines = (DEPLOY / name).read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert [line for line in lines if "://" in line] == [], (
        "from where packages come is the builder's setting"
    )
    copied = {
        part
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for part in line.split()[1:-1]
    }
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied


def test_the_compose_file_is_a_compose_file(tmp_path):
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose")
    shutil.copytree(DEPLOY / "compose", tmp_path / "compose")
    (tmp_path / "compose" / "s3.env").write_text("A=b\n")
    done = subprocess.run(
        ["docker-compose", "-f", str(tmp_path / "compose" / "compose.yaml"), "config", "--quiet"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_image_of_the_compose_stack_has_a_version():
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    images = {
        name: re.fullmatch(r"\$\{[A-Z0-9_]+:-(.+)\}", service["image"])[1]
        for name, service in services.items()
    }
    assert [name for name, image in images.items() if not re.search(r":v?\d+\.\d+\.\d+\Z", image)] == []


def test_the_compose_stack_has_tokens_secrets_as_files_and_only_loopback_ports():
    told = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    for name, service in told["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for variable in service.get("environment", {}):
            assert variable.endswith(("_FILE", "_PATH", "_MODE", "_URL", "_REGION")), variable
        for secret in service.get("secrets", []):
            assert told["secrets"][secret]["file"].startswith("./secrets/")
        for volume in service.get("volumes", []):
            local = volume.split(":")[0]
            assert not local.startswith("./") or (DEPLOY / "compose" / local).exists()
    assert {"head", "worker", "nightly", "exporter", "s3", "prometheus", "grafana"} == set(told["services"])
    for name in ("head", "worker", "nightly"):
        assert told["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_the_stacks_secrets_are_drawn_once_and_are_private(tmp_path):
    shutil.copy(DEPLOY / "compose" / "setup.sh", tmp_path)

    def make():
        done = subprocess.run(["sh", str(tmp_path / "setup.sh")], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = make()
    assert make() == first
    assert len({first["ray_token"], first["grafana_password"]}) == 2
    assert len(first["ray_token"]) == 48
    key, secret = re.findall(r"= (\w+)", first["aws_credentials"])
    assert f"ROOT_SECRET_KEY={secret}" in (tmp_path / "s3.env").read_text()
    assert key != secret


def test_prometheus_takes_the_stacks_configuration():
    if shutil.which("promtool") is None:
        pytest.skip("no promtool")
    file = DEPLOY / "compose" / "prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_takes_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/prunefleet/bin/prunefleet", shutil.which("true"))
        (tmp_path / path.name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    timer = (DEPLOY / "systemd" / "prunefleet-nightly.timer").read_text()
    when = re.search("OnCalendar=(.*)", timer)[1]
    done = subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_cluster_launcher_takes_its_file():
    from ray.autoscaler._private.util import validate_config

    told = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text())
    whole = {**told, "cluster_synced_files": []}  # which `ray up` adds
    assert validate_config(whole) is None
    with pytest.raises(Exception, match="is not valid under any of the given schemas|is not of type"):
        validate_config({**whole, "max_workers": "many"})


@pytest.mark.parametrize(
    "path", [DEPLOY / "slurm" / "prunefleet.sbatch", DEPLOY / "compose" / "setup.sh"], ids=str
)
def test_scripts_are_scripts(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


COMMANDS = re.compile(
    r"(?:prunefleet|ExecStart=\S+/prunefleet) ((?:nightly|exporter|run|plan|doctor)[^\n'\"&|]*)"
)


def test_every_command_that_is_deployed_is_one_that_there_is():
    import click
    import typer.main

    from orchestrator.cli import app

    known = typer.main.get_command(app).commands
    texts = {
        path: path.read_text()
        for path in DEPLOY.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    called = {(match[1].strip(), path) for path, text in texts.items() for match in COMMANDS.finditer(text)}
    for service in yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"].values():
        if str(service.get("image", "")).startswith("${PRUNEFLEET_IMAGE") and service.get("entrypoint") != [
            "ray"
        ]:
            called.add((" ".join(service["command"]), DEPLOY / "compose"))
    for manifest in RENDERED["run"]:
        for pod in pods_of(manifest):
            called |= {(" ".join(c["args"]), KUBERNETES) for c in pod["containers"] if "args" in c}
    assert len(called) >= 5
    for line, path in sorted(called, key=str):
        name, *arguments = line.split()
        assert name in known, f"{path}: there is no command {name}"
        context = click.Context(known[name], info_name=name, resilient_parsing=False)
        placed = [a if not a.startswith(("$", '"')) else "fleet.yaml" for a in arguments]
        known[name].make_parser(context).parse_args(placed)


def test_nothing_that_is_deployed_names_a_secret():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not re.search(
                r"(?i)(secret_access_key|password|token)\s*[:=]\s*[A-Za-z0-9+/]{16,}", path.read_text()
            ), path
