"""Where work runs and how its results are kept: sessions, pools, the shard scheduler, the ledger, whole files.

The only package that imports Ray, in `ray_pool`, `ray_train` and `ray_connection`, imported inside functions alone:
`import mplat.runtime` needs neither Ray nor torch.
Commands declare a `stage.Stage` and run jobs through it; `record.read_run` reads what they leave.
"""

from ..core.whole_files import (
    NonDeterministicError,
    Published,
    publish_bytes,
    publish_json,
    publish_table,
    read_table,
    replace_table,
)
from .ledger import Entry, Ledger, read_ledger
from .plan import PlanDigest, Shard, canonical_json, digest_of, plan_digest, plan_shards
from .pool import Pool, Worker, WorkerError, WorkerFactory
from .scheduler import Job, Limits, Made, run_shards
from .session import Session, open_session
from .table_job import Progress, run_table

__all__ = [
    "Entry",
    "Job",
    "Ledger",
    "Limits",
    "Made",
    "NonDeterministicError",
    "PlanDigest",
    "Pool",
    "Progress",
    "Published",
    "Session",
    "Shard",
    "Worker",
    "WorkerError",
    "WorkerFactory",
    "canonical_json",
    "digest_of",
    "open_session",
    "plan_digest",
    "plan_shards",
    "publish_bytes",
    "publish_json",
    "publish_table",
    "read_ledger",
    "read_table",
    "replace_table",
    "run_shards",
    "run_table",
]
