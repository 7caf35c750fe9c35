"""Why spilled blocks need memory or an encrypted volume, and that they go where the manifests say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MARK = b"a pixel of a source picture "
SPILL_SOME = """
import json, sys, time, ray
ray.init(address="local", num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False,
         object_spilling_directory=sys.argv[1])
blocks = [ray.put(b"a pixel of a source picture " * 10**6) for _ in range(6)]
deadline = time.monotonic() + 60
import pathlib
found = []
while not found and time.monotonic() < deadline:
    found = [path for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file() and path.stat().st_size > 10**6]
    time.sleep(0.2)
print(json.dumps([(str(path), path.read_bytes()[10**5:10**5 + 10**4].decode("latin1")) for path in found]))
ray.shutdown()
print(json.dumps([str(path) for path in found if path.exists()]))
"""


def test_a_spilled_block_is_the_picture_itself_in_the_folder_that_is_named(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SPILL_SOME, tmp_path], capture_output=True, text=True, timeout=150, check=True, env=env
    )
    spilled, left = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert spilled and all(Path(path).is_relative_to(tmp_path) and MARK.decode() in text for path, text in spilled)
    assert left == []  # a session that ends well takes its blocks away; one that is killed does not
