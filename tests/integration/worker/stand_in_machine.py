"""A machine's real worker, with real nodes, whose ranks have a stand-in network."""

from worker.machine import main

if __name__ == "__main__":
    main(
        node_module="tests.integration.worker.stand_in_node",
        rank_module="tests.integration.worker.stand_in_video_rank",
    )
