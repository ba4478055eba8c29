"""A Ray cluster of one node, until standard input ends: `python ray_cluster.py FOLDER`. Prints its address.

Nothing of it outlives this process.
"""

from __future__ import annotations

import sys

import ray

context = ray.init(
    num_cpus=3,
    object_store_memory=80 * 1024**2,
    include_dashboard=False,
    log_to_driver=False,
    _temp_dir=sys.argv[1],
)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
