"""What a rank is told before it starts, as only its own process can say."""

import psutil

from tests.unit.group.conftest import stand_in_group


def test_threads_of_a_rank_sleep_while_they_wait_for_each_other() -> None:
    with stand_in_group(ranks=1, threads_per_rank=2) as group:
        told = psutil.Process(group.pids[0]).environ()
    assert (told["OMP_NUM_THREADS"], told["OMP_WAIT_POLICY"]) == ("2", "passive")
