"""The same seed gives the same walk on every machine and hash seed, and the same search the same counterexample."""

import os
import subprocess
import sys

PROGRAM = """
import time, xxhash
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.explore.search import explore
from swaptier_loadgen.explore.walk import walk
from swaptier_loadgen.explore.worlds import WORLDS
digest = xxhash.xxh3_64()
for name, policy in (("slot-reuse", "exclusive"), ("fork-share", "shared-unpinned"), ("zap-vs-fault", "exclusive")):
    spec = WORLDS[name]
    build = lambda: spec.build(POLICIES[policy], spec.bounds)
    for result in (explore(build, now=time.monotonic), walk(build, 11, 40, now=time.monotonic)):
        digest.update(repr((result.states, result.schedules, result.replays, result.depth, result.found)).encode())
print(digest.hexdigest())
"""


def digest_with(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_two_hash_seeds_give_the_same_searches_and_walks() -> None:
    """States, schedules, replays, depth and the counterexample itself, step by step."""
    assert digest_with("1") == digest_with("4242")
