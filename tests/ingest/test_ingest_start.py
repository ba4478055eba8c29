"""Messages about wrong settings."""

from __future__ import annotations

import pytest

from ingest.__main__ import main


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INGEST_INDEX_NAME", "../elsewhere"),
        ("INGEST_INDEX_NAME", ""),
        ("INGEST_EMBEDDER_URL", "embedder:8084"),
        ("INGEST_BATCH_SIZE", "none"),
        ("INGEST_LANGUAGE", "klingon"),
    ],
)
def test_one_line_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, good in (("INGEST_INDEX_ROOT", "/tmp"), ("INGEST_TOKENIZER", "/tmp/tokenizer.json"), (variable, value)):  # noqa: S108 - nothing is written
        monkeypatch.setenv(name, good)
    with pytest.raises(SystemExit) as ended:
        main(["."])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{variable}: ")
