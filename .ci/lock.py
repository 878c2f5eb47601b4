"""Write the pinned packages with their hashes, for installations that pip checks file by file.

    python .ci/lock.py > requirements.lock           what the project and its tools need
    python .ci/lock.py rich typer > requirements.lock   these and what they need
    pip install --require-hashes -r requirements.lock && pip install --no-deps --no-build-isolation .

pip resolves the versions of constraints.txt without installing anything, from the index that it is configured with. The
hashes are those of the files for this Python and this platform: write the file on the machine that will install it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def locked(requirements: list[str]) -> list[str]:
    """One line for each package that the requirements need, in alphabetical order.

    Raises: SystemExit with pip's code when it cannot resolve them, or 1 for a package without a hash.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), *requirements], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    lines = []
    for package in json.loads(done.stdout)["install"]:
        name, version = package["metadata"]["name"], package["metadata"]["version"]
        source = package["download_info"]
        if "dir_info" in source:  # the project itself
            continue
        sha256 = source.get("archive_info", {}).get("hashes", {}).get("sha256")
        if sha256 is None:
            sys.exit(f"{name} {version} has no SHA-256: pip does not take it from an archive")
        lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    print("\n".join(locked(sys.argv[1:] or [f"{ROOT}[dev]"])))
