"""A real node whose ranks have a stand-in network."""

from worker.node import main

if __name__ == "__main__":
    main(rank_module="tests.integration.worker.stand_in_video_rank")
