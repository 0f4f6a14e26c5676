"""What a rank is told before it starts, as only its own process can say."""

from pathlib import Path

import psutil

from tests.unit.group.conftest import stand_in_group


def test_threads_of_a_rank_sleep_while_they_wait_for_each_other() -> None:
    with stand_in_group(ranks=1, threads_per_rank=2) as group:
        told = psutil.Process(group.pids[0]).environ()
    assert (told["OMP_NUM_THREADS"], told["OMP_WAIT_POLICY"]) == ("2", "passive")


def test_compiled_kernels_are_kept_where_the_operator_says(tmp_path: Path) -> None:
    with stand_in_group(ranks=1, compiled=tmp_path) as group:
        told = psutil.Process(group.pids[0]).environ()
    assert told["TRITON_CACHE_DIR"] == str(tmp_path)
