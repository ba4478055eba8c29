"""The encoders without Triton, in Triton's environment: this one has no OpenVINO, and another numpy."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

from kserve_rag.local.triton import TritonEnvironment

TESTS = Path(__file__).parent / "in_triton_env"


def test_encoders_in_tritons_environment(triton_environment: TritonEnvironment, embedder_folder: Path) -> None:
    """Runs in_triton_env/ with that environment's packages first; pytest and ONNX Runtime are this one's."""
    packages = [triton_environment.site_packages, TESTS.parents[2], sysconfig.get_path("purelib")]
    done = subprocess.run(
        [
            triton_environment.path / "bin" / "python",
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--confcutdir={TESTS}", TESTS),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "EMBEDDER_MODEL_DIR": str(embedder_folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-8000:], done.stderr[-4000:])
    assert done.returncode == 0
