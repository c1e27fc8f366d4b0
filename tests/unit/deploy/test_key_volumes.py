"""The key volumes of the deployments hold keys as the learner and the actors require them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from common.keys import files
from common.keys.files import KeyDirectory, read_key_file
from tests.unit.deploy.test_deployment import DEPLOY, pod


def prepared_pod(name: str, root: Path, secrets: dict[str, Path]) -> Path:
    """Run the init container of a pod below `root`; return the path of its `--keys` option.

    A new volume is writable by everyone, and the group can read a mounted secret.
    """
    [container] = pod(name)["initContainers"]
    for mount in container["volumeMounts"]:
        folder = root / mount["mountPath"].lstrip("/")
        folder.mkdir()
        folder.chmod(0o777)
    for file, source in secrets.items():
        (root / "secrets" / file).write_bytes(source.read_bytes())
        (root / "secrets" / file).chmod(0o440)
    command = container["command"][-1]
    for mount in container["volumeMounts"]:
        command = command.replace(
            f" {mount['mountPath']}/", f" {shlex.quote(str(root))}{mount['mountPath']}/"
        )
    subprocess.run(["/bin/sh", "-euc", command], check=True, timeout=60)
    args = pod(name)["containers"][0]["args"]
    return root / str(args[args.index("--keys") + 1])


def test_the_kubernetes_pods_read_the_keys_that_their_init_containers_copy(tmp_path: Path) -> None:
    keys = tmp_path / "made"
    files.initialise(keys)
    files.add(keys, "fleet")
    files.export(keys, "fleet", tmp_path / "fleet.json")
    for name in ("learner", "actor"):
        (tmp_path / name).mkdir()
    secrets = {
        "learner.json": keys / "learner.json",
        "fleet-public.json": keys / "authorised" / "fleet.json",
    }
    directory = KeyDirectory.open(prepared_pod("learner", tmp_path / "learner", secrets))
    given = {"fleet.json": tmp_path / "fleet.json"}
    key = read_key_file(prepared_pod("actor", tmp_path / "actor", given))
    assert directory.authorised() == ({key.pair.public: "fleet"}, [])
    assert key.learner == directory.pair.public


def test_the_mount_points_of_the_key_volumes_belong_to_the_user_of_the_processes() -> None:
    """A new named volume of Compose takes its owner and mode from the mount point in the image."""
    [line] = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if " /keys " in line]
    made = shlex.split(line.partition("&&")[0])
    assert made[1:9] == ["install", "-d", "-o", "10001", "-g", "10001", "-m", "0700"]
    assert {"/keys", "/fleet"} <= set(made[9:])
