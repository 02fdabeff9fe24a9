"""Files from the future get times of the present, in the order in which they were made."""

import os

from diffmech.workflow.clocks import bring_back

SECOND = 10**9


def test_files_of_tomorrow_become_those_of_today_in_their_order(tmp_path) -> None:
    now = 2000 * SECOND
    times = {"old": 1000 * SECOND, "new": now, "b": 5000 * SECOND, "c": 9000 * SECOND, "d": 5000 * SECOND}
    (tmp_path / "below" / ".checkpoints").mkdir(parents=True)
    for name, time in times.items():
        for path in (tmp_path / "below" / name, tmp_path / "below" / ".checkpoints" / name):
            path.touch()
            os.utime(path, ns=(time, time))
    (tmp_path / "below" / "link").symlink_to("nowhere")
    os.utime(tmp_path / "below" / "link", ns=(8000 * SECOND, 8000 * SECOND), follow_symlinks=False)
    assert bring_back(tmp_path, now) == 4
    found = {path.name: path.lstat().st_mtime_ns for path in (tmp_path / "below").iterdir() if not path.is_dir()}
    assert (found["old"], found["new"]) == (1000 * SECOND, now)
    assert found["b"] == found["d"] < found["link"] < found["c"] == now
    assert found["b"] > now - SECOND
    hidden = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "below" / ".checkpoints").iterdir()}
    assert hidden == times
    assert bring_back(tmp_path, now) == bring_back(tmp_path / "absent", now) == 0
