"""Failpoints are dead in the product: nothing of it brings one to life, whatever is in its environment."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PRODUCT = ("api", "cli", "infra", "migrations", "models", "worker")
OF_A_JOB = ("worker.consumer", "worker.scheduler", "worker.webhook_sender")


def test_no_module_of_the_product_can_arm_a_failpoint() -> None:
    importers = [
        str(path.relative_to(ROOT))
        for room in PRODUCT
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "worker.failpoints"
        if {name.name for name in node.names} - {"Failpoint", "failpoint"}
    ]
    assert importers == []


def test_the_suites_own_variables_bring_none_to_life(tmp_path: Path) -> None:
    look = f"import {', '.join(OF_A_JOB)}; from worker import failpoints; print(failpoints._strike)"
    environment = {"FAULTS_ORDERS": str(tmp_path), "FAULTS_CLOCK": "0.1", "FAULTS_MUTANT": "fencing"}
    said = subprocess.run(
        [sys.executable, "-c", look], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout == "None\n"
