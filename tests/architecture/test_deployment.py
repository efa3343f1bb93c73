"""Every file under deploy/ that is no manifest is held to the real schema, or the real tool, of what reads it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cases.manifests import DEPLOY, KUBERNETES, RENDERED, ROOT, pods_of
from cases.prometheus import promtool, until

BIN = Path(sys.executable).parent
DOCKERFILE = DEPLOY / "Dockerfile"


def test_the_image_is_what_hadolint_wants_and_has_no_root():
    done = subprocess.run(
        [str(BIN / "hadolint"), str(DOCKERFILE)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    lines = DOCKERFILE.read_text().splitlines()
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


def test_the_image_has_what_each_kind_of_message_and_each_signature_needs():
    installed = re.search(r"'\.\[([a-z,]+)\]'", DOCKERFILE.read_text())[1]
    assert set(installed.split(",")) == {"notify", "signing"}


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


def test_prometheus_takes_the_stacks_configuration_with_the_rules_that_are_mounted(tmp_path):
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    for volume in services["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        if target.startswith("/etc/prometheus/"):
            (tmp_path / Path(target).name).symlink_to((DEPLOY / "compose" / source).resolve())
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


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


def test_the_launchers_container_runs_a_shell_and_has_the_programs_that_the_launcher_uses():
    from ray.autoscaler._private.docker import docker_start_cmds

    told = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text())
    docker = told["docker"]
    line = docker_start_cmds(
        "ubuntu", docker["image"], told["file_mounts"], docker["container_name"], docker["run_options"],
        told["cluster_name"], "/root", "docker",
    )  # fmt: skip
    words = shlex.split(line)
    image = DOCKERFILE.read_text()
    entrypoint = json.loads(re.search(r"^ENTRYPOINT (.+)$", image, re.MULTILINE)[1])
    chosen = [word.removeprefix("--entrypoint=") for word in words if word.startswith("--entrypoint=")]
    program = shlex.split(chosen[-1]) if chosen else entrypoint
    assert [*program, *words[words.index(docker["image"]) + 1 :]] == ["bash"]
    assert {"rsync", "openssh-client"} <= set(re.search(r"apt-get install (.+?) \\", image)[1].split())


STAND_INS = {
    "scontrol": "echo node-a; echo node-b",
    "srun": 'while [ "$1" != ray ]; do shift; done; "$@"',
    "ray": 'while [ "$1" != -- ]; do shift; done; shift; "$@"',
    "prunefleet": 'trap "echo told; is_told=yes" TERM; echo "$@" > ready; until [ $is_told ]; do sleep 0.05; done; echo drained; exit 75',
}
"""Of what the script of Slurm calls; srun and ray pass no signal on, and would die of one."""


def test_slurms_script_tells_prunefleet_alone_to_end_and_waits_for_its_exit_code(tmp_path):
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    settings = {
        "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1",
        "FLEET": "fleet.yaml", "HOME": str(tmp_path), "TMPDIR": str(tmp_path),
    }  # fmt: skip
    script = subprocess.Popen(
        ["bash", str(DEPLOY / "slurm" / "prunefleet.sbatch")], cwd=tmp_path, text=True,
        env={**settings, "PATH": f"{tmp_path}:/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until((tmp_path / "ready").exists, "the start of prunefleet")
    script.terminate()
    out, err = script.communicate(timeout=60)
    assert (script.returncode, out, err) == (75, "told\ndrained\n", "")
    assert (tmp_path / "ready").read_text() == "nightly fleet.yaml --address auto\n"
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


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
    for overlay in RENDERED.values():
        for pod in (pod for manifest in overlay for pod in pods_of(manifest)):
            for command in (c["command"] for c in pod["containers"] if "prunefleet" in c.get("command", [])):
                called.add((" ".join(command[command.index("prunefleet") + 1 :]), KUBERNETES))
    assert len(called) >= 6
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
