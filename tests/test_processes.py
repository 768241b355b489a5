import subprocess
import sys
from pathlib import Path

SCRIPT = """
from pathlib import Path
import sys
from saccade.data.cache.reader import CachedEpisodes
from saccade.data.synthetic import SyntheticConfig

CachedEpisodes(SyntheticConfig(episodes=2, length=4).build(), Path(sys.argv[1]), 16, workers=1)
"""


def test_a_script_without_a_main_is_told_so_and_does_not_hang(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "cache"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr
    assert "ended by what is told above" in done.stderr
