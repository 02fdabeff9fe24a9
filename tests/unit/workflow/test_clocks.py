"""Files keep the order in which they were made, whatever clocks say."""

import os

from diffmech.workflow.clocks import keep_order


def test_what_is_made_of_a_file_of_tomorrow_is_no_older_than_it(tmp_path) -> None:
    names = ("tomorrow", "yesterday", "made", "made_too")
    tomorrow, yesterday, made, newer = (tmp_path / name for name in names)
    for path, time in ((tomorrow, 4e9), (yesterday, 1e9), (made, 2e9), (newer, 5e9)):
        path.touch()
        os.utime(path, (time, time))
    keep_order([str(yesterday)], [str(made)])
    assert made.stat().st_mtime == 2e9
    keep_order([str(yesterday), str(tomorrow), str(tmp_path)], [str(made), str(newer), str(tmp_path / "absent")])
    assert [path.stat().st_mtime for path in (tomorrow, yesterday, made, newer)] == [4e9, 1e9, 4e9, 5e9]
