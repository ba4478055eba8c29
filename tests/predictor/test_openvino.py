"""The OpenVINO pipeline, in Triton's environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from kserve_rag.local.triton import TritonEnvironment, package_folder

PROGRAM = """
import json, sys
from pathlib import Path
from predictor.engines.batch import SamplingParams
from predictor.engines.openvino import OpenVinoPipeline
from predictor.engines.settings import EngineSettings

settings = EngineSettings(model_dir=Path(sys.argv[1]), cache_dir=Path(sys.argv[2]))
pipeline = OpenVinoPipeline(settings, frozenset({0, 2}))
generation = pipeline.start([504, 3575, 282, 4649, 314], SamplingParams(max_tokens=8, greedy=True))
ids = []
while True:
    pipeline.step()
    output = generation.read()
    ids += output.ids if output else []
    if output and output.finish_reason:
        break
print(json.dumps(ids))
"""


def test_a_model_is_converted_once(triton_environment: TritonEnvironment, llm_folder: Path, tmp_path: Path) -> None:
    weights, cache = tmp_path / "model.gguf", tmp_path / "cache"
    shutil.copyfile(llm_folder / "model.gguf", weights)
    (cache / "outdated").mkdir(parents=True)

    def generate() -> Any:
        command = [str(triton_environment.path / "bin" / "python"), "-c", PROGRAM, str(tmp_path), str(cache)]
        environ = {**os.environ, "PYTHONPATH": str(package_folder("predictor").parent)}
        return json.loads(subprocess.run(command, env=environ, check=True, capture_output=True, timeout=120).stdout)

    converted = generate()
    (folder,) = cache.iterdir()
    size, times = weights.stat().st_size, (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    weights.write_bytes(bytes(size))  # no model; only the cache has one
    os.utime(weights, ns=times)
    assert generate() == converted
    assert [path.suffix for path in sorted(folder.iterdir())] == [".bin", ".xml"]
