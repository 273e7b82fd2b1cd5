"""A Ray cluster of two nodes, as a process: prints its address and its nodes, loses the second one on a line of input.

python -m tests.ray_cluster

The second node has memory for an attack job, not for a run: a run's attack job goes there, since jobs are spread, and
its run stays on the first one, which has a CPU left for what the second one takes with it, and none for another run.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

from deploy.sweep.room import ATTACK_BYTES, RUN_BYTES


def main() -> None:
    """Runs until standard input ends."""
    memory = 2 * (RUN_BYTES + ATTACK_BYTES)
    head = {"num_cpus": 2, "memory": memory, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": quick})
    worker = cluster.add_node(num_cpus=1, memory=ATTACK_BYTES, node_ip_address="127.0.0.3")
    cluster.wait_for_nodes()
    print(cluster.address, cluster.head_node.node_id, worker.node_id, flush=True)
    if sys.stdin.readline():
        cluster.remove_node(worker, allow_graceful=False)
        print("lost", flush=True)
        sys.stdin.readline()
    cluster.shutdown()


if __name__ == "__main__":
    main()
