"""A Ray cluster of several nodes on this machine, in a process of its own: `python -m tests.infra.nodes WORKERS SPILL`.

It prints its address when all nodes are there, adds one for each line on its standard input, and goes away when that ends. Its
nodes hold the environment of this process, as pods hold theirs; the head has no CPU, as in infra/kubernetes.
"""

import sys
import time

import ray
from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 1024 * 1024  # Ray's least is 75 MiB
CPUS = 2  # of each worker


def main(workers: int, spill: str) -> None:
    cluster = Cluster()
    shared = {
        "object_store_memory": STORE_BYTES,
        "object_spilling_directory": spill,
        "include_dashboard": False,
    }
    try:
        cluster.add_node(num_cpus=0, **shared)
        for _ in range(workers):
            cluster.add_node(num_cpus=CPUS, **shared)
        ray.init(cluster.address, log_to_driver=False)
        while sum(node["Alive"] for node in ray.nodes()) < workers + 1:
            time.sleep(0.2)
        ray.shutdown()
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            cluster.add_node(num_cpus=CPUS, **shared)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
