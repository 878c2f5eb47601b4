"""Another user, without a home, rights on the installation or much shared memory, runs the whole loop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

USER = 54_321
"""A number that no user has."""
COMMANDS = """\
set -e
me quickstart --smoke --out quick
me inspect quick/base
me evaluate quick/base --suite nano --limit 1
me export quick/sft --gguf q8_0 --limit 4 --margin 0.5 --out made || [ $? = 3 -o $? = 4 ]
me run quick/base "What is 12 plus 30?" --tools add
"""


def visible(prefix: Path, stage: Path) -> str:
    """Shell commands that show the interpreter to other users, if it is in a private directory such as root's home."""
    private = next((parent for parent in reversed(prefix.parents) if not parent.stat().st_mode & 1), None)
    if private is None:
        return ""
    return (
        f"mount --bind '{prefix}' '{stage}' && mount -t tmpfs -o mode=755 tmpfs '{private}' && mkdir -p '{prefix}' && "
        f"mount --bind '{stage}' '{prefix}' && "
    )


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not (shutil.which("unshare") and shutil.which("setpriv")), reason="needs util-linux")
def test_another_user_runs_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    stage = tmp_path_factory.mktemp("stage")
    place = Path(subprocess.check_output(["mktemp", "-d", "/var/tmp/user.XXXXXX"], text=True).strip())
    try:
        (place / "tmp").mkdir()
        for path in (place, place / "tmp"):
            os.chown(path, USER, USER)
        script = f"me() {{ '{sys.executable}' -m mentor_edge \"$@\"; }}\n{COMMANDS}"
        become = f"setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs"
        variables = f"PATH=/usr/bin:/bin TMPDIR='{place}/tmp' PYTHONPATH='{ROOT}' OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1"
        little = "mount -t tmpfs -o size=64k,mode=1777 tmpfs /dev/shm && "
        outer = f'{little}{visible(Path(sys.base_prefix), stage)}exec {become} env -i {variables} bash -c "$1"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", outer, "sh", script], cwd=place, capture_output=True, text=True
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-4000:]
        assert {path.stat().st_uid for path in (place / "quick").rglob("*")} == {USER}
    finally:
        shutil.rmtree(place)
