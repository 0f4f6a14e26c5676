"""One process of an installation under test: the product's own entry point behind an armed one.

`python -m tests.faults.part parent-pid api|scheduler|webhooks|node`; the product's settings are in the environment.
"""

import sys

from tests.faults.armed import make_ready
from worker.processes import die_with_parent

CONSUMER = "tests.faults.armed_consumer"
RANK = "tests.integration.worker.stand_in_video_rank"


def main(arguments: list[str]) -> None:
    die_with_parent(int(arguments[0]))
    match arguments[1]:
        case "api":
            from api.server import main as run_api

            make_ready()
            run_api()
        case "scheduler":
            from worker.scheduler import main as run_scheduler

            make_ready()
            run_scheduler()
        case "webhooks":
            from worker.webhook_sender import main as run_webhooks

            make_ready()
            run_webhooks()
        case "node":
            from worker.node import run_node, start_log
            from worker.settings import WorkerSettings

            make_ready()
            settings = WorkerSettings()
            start_log(settings.node_name)
            raise SystemExit(run_node(settings, rank_module=RANK, consumer_module=CONSUMER))


if __name__ == "__main__":
    main(sys.argv[1:])
