"""The Debian package with the built proxy: made, listed, installed into a root of its own, run, purged;
and the unit in it, as systemd reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from place import DEPLOY, NAME, must, run, version

UNIT = f"usr/lib/systemd/system/{NAME}.service"


def build(proxy: Path, folder: Path) -> Path:
    """A release is packed with xz, which takes long for a debug build."""
    return Path(must("env", "COMPRESSION=gzip", DEPLOY / "debian" / "build.sh", proxy, folder).strip())


@pytest.fixture(scope="session")
def package(proxy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    return build(proxy, folder)


def dpkg(root: Path, *options: str | Path) -> str:
    """Maintainer scripts run here, and leave this machine alone: they honour DPKG_ROOT."""
    return must("dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", "--force-not-root", *options)


@pytest.fixture(scope="session")
def root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    database = root / "var" / "lib" / "dpkg"
    for folder in ("info", "updates", "triggers"):
        (database / folder).mkdir(parents=True)
    (database / "status").touch()
    dpkg(root, "--install", package)
    return root


def test_it_holds_what_it_should(package: Path) -> None:
    listed = {line.split()[5]: line.split()[:2] for line in must("dpkg-deb", "--contents", package).splitlines()}
    for path, mode in {
        f"usr/bin/{NAME}": "-rwxr-xr-x",
        UNIT: "-rw-r--r--",
        f"usr/lib/sysusers.d/{NAME}.conf": "-rw-r--r--",
        f"etc/default/{NAME}": "-rw-r--r--",
        f"etc/{NAME}/proxy.toml": "-rw-r--r--",
        f"usr/share/man/man1/{NAME}.1.gz": "-rw-r--r--",
        f"usr/share/doc/{NAME}/copyright": "-rw-r--r--",
        f"usr/share/doc/{NAME}/sbom.cdx.json": "-rw-r--r--",
        f"usr/share/doc/{NAME}/examples/alerts.yaml": "-rw-r--r--",
    }.items():
        assert listed[f"./{path}"] == [mode, "root/root"], path


def test_it_tells_its_version_and_libraries(package: Path) -> None:
    fields = must("dpkg-deb", "--field", package)
    assert f"Version: {version()}\n" in fields
    assert "Depends: libc6" in fields or "Depends: init-system-helpers" in fields


def test_the_same_input_gives_the_same_package(package: Path, proxy: Path, tmp_path: Path) -> None:
    assert build(proxy, tmp_path).read_bytes() == package.read_bytes()


def test_lintian_finds_nothing(package: Path) -> None:
    must("lintian", "--allow-root", "--fail-on", "error,warning", package)


def test_it_installs_with_a_user_and_runs(root: Path) -> None:
    assert must(root / "usr" / "bin" / NAME, "--version") == f"{NAME} {version()}\n"
    assert f"{NAME}:x:" in (root / "etc" / "passwd").read_text()
    enabled = root / "etc" / "systemd" / "system" / "multi-user.target.wants"
    assert not enabled.exists(), "the service needs to be told the instance first"


def test_configuration_survives_removal_and_goes_with_purge(package: Path, root: Path) -> None:
    copy = root.with_name("root-to-purge")
    shutil.copytree(root, copy, symlinks=True)
    settings = copy / "etc" / "default" / NAME
    settings.write_text("MEMORYSTORE_INSTANCES=10.0.0.3:6379\n")
    dpkg(copy, "--install", package)
    assert settings.read_text() == "MEMORYSTORE_INSTANCES=10.0.0.3:6379\n"
    dpkg(copy, "--remove", NAME)
    assert settings.exists() and not (copy / "usr" / "bin" / NAME).exists()
    dpkg(copy, "--purge", NAME)
    assert not settings.exists() and not (copy / "etc" / NAME).exists()


def test_systemd_takes_the_unit(root: Path, tmp_path: Path) -> None:
    """With the programs of the root: `verify --root` would want all of systemd's units there."""
    unit = tmp_path / f"{NAME}.service"
    unit.write_text((root / UNIT).read_text().replace("/usr/bin/", f"{root}/usr/bin/"))
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(["systemd-analyze", "verify", unit], env=environment, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_confined(root: Path) -> None:
    """systemd's own measure, of 10 for no confinement at all, in tenths: below 1.5."""
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=15", root / UNIT)
    assert done.returncode == 0, done.stdout


def test_systemd_makes_the_user(root: Path) -> None:
    planned = run("systemd-sysusers", "--dry-run", root / f"usr/lib/sysusers.d/{NAME}.conf")
    assert NAME in planned.stderr + planned.stdout and planned.returncode == 0
