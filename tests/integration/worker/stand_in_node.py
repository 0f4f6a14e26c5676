"""A real node whose ranks have a stand-in network."""

import sys

from worker.node import main

if __name__ == "__main__":
    main(sys.argv[1:], rank_module="tests.integration.worker.stand_in_video_rank")
