"""Where KEKs live that never show themselves: a token of SoftHSM2 in a directory, and an OpenBao server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
)
TOKEN, PIN = "keyanon", "5678-of-the-test"
START_SECONDS = 60.0


def soft_hsm() -> str | None:
    """The PKCS #11 library of SoftHSM2, None where it is not installed."""
    if shutil.which("softhsm2-util") is None:
        return None
    return next((path for path in MODULES if Path(path).exists()), None)


def hsm_settings(root: Path, module: str) -> dict[str, str]:
    """The settings for a new, empty token in `root`."""
    (root / "tokens").mkdir()
    (root / "softhsm2.conf").write_text(
        f"directories.tokendir = {root / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    pin = root / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    settings = {"SOFTHSM2_CONF": str(root / "softhsm2.conf")}
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "of-the-officer", "--pin", PIN],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
    )
    return {**settings, "KEYANON_PKCS11_MODULE": module, "KEYANON_PKCS11_PIN_FILE": str(pin)}


class Bao:
    """An OpenBao server in memory, with a transit engine and a token that may do with its keys what keyanon asks for."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._root = os.urandom(16).hex()
        self._log = root / "bao.log"
        self.start()

    def start(self) -> None:
        beside = Path(sys.executable).with_name("bao")
        address = self.url.removeprefix("http://")
        command = [str(beside), "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={self._root}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"-dev-listen-address={address}"],
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self._log.parent)},
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("POST", "sys/mounts/transit", {"type": "transit"})
                break
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None, self._log.read_text()
                time.sleep(0.2)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Ask as the administrator."""
        import urllib.request

        request = urllib.request.Request(
            f"{self.url}/v1/{path}",
            None if body is None else json.dumps(body).encode(),
            {"X-Vault-Token": self._root},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    def token(self, *rights: str) -> str:
        """A token with `right on path` for each of these."""
        policy = "\n".join(
            f'path "{path}" {{ capabilities = ["{right}"] }}' for right, path in (one.split(" on ") for one in rights)
        )
        name = os.urandom(4).hex()
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        made = self.ask("POST", "auth/token/create", {"policies": [name], "no_default_policy": True})
        return str(made["auth"]["client_token"])  # type: ignore[index]

    def settings(self, token: str) -> dict[str, str]:
        return {"VAULT_ADDR": self.url, "VAULT_TOKEN": token}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
