"""A packed study says where each file comes from, and whatever is changed in it afterwards is named elsewhere."""

import hashlib
import io
import json
import random
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diffmech import verify
from diffmech.errors import StoreError
from diffmech.provenance.crate import MANIFEST, METADATA, Study, all_records, commit, pack
from diffmech.verify import main, problems

PACKED = ["results/report.html", "results/report/findings.json"]
TITLE = "What heads </script> do"


@pytest.fixture
def packed(study):
    """The package of the small study, in the working folder."""
    pack("study.zip", PACKED, study, Study(TITLE, {"seed": 3}, Path(), "https://spdx.org/licenses/CC-BY-4.0"))
    return Path("study.zip")


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def rebuilt(path, content):
    """Write an archive of `content` over `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def found(path):
    lines = list(problems(path))
    assert all("\n" not in line for line in lines)
    return lines


def test_a_package_holds_pages_tables_settings_and_jobs_and_is_as_it_says(packed, capsys):
    content = members(packed)
    assert set(content) == {
        *PACKED,
        "results/table.csv",
        *("config.yaml", "environment.json", "code.json", "provenance.json", METADATA, MANIFEST),
    }
    assert found(packed) == []
    assert main([str(packed)]) == 0
    assert "8 files are as they were packed" in capsys.readouterr().out
    jobs = json.loads(content["provenance.json"])
    assert [job["rule"] for job in jobs] == ["features", "tabulate", "page"]
    assert jobs[2]["inputs"]["results/table.csv"].startswith("sha256:")
    assert "zarr" in json.loads(content["environment.json"])["packages"]
    assert json.loads(content["code.json"])["fingerprints"] == {"page": "0" * 16}


def test_stores_are_packed_where_they_are_asked_for(study):
    pack("study.zip", PACKED, study, Study(TITLE, {}, Path()), stores=True)
    assert members(Path("study.zip"))["results/features.zarr.zip"] == Path("results/features.zarr.zip").read_bytes()
    assert found(Path("study.zip")) == []


def test_a_table_of_nothing_but_zeros_and_any_name_are_packed_as_verify_takes_them(study):
    zeros, odd = Path("results/zeros.csv"), Path("results/line\u2028break.csv")
    zeros.write_text("value\n" + "0\n" * 2_000_000)
    odd.write_text("a\n1\n")
    pack("study.zip", [*PACKED, str(zeros), str(odd)], study, Study(TITLE, {}, Path()))
    assert found(Path("study.zip")) == []
    assert members(Path("study.zip"))[str(zeros)] == zeros.read_bytes()


def test_equal_results_give_equal_bytes(packed, study):
    pack("again.zip", PACKED, study, Study(TITLE, {"seed": 3}, Path(), "https://spdx.org/licenses/CC-BY-4.0"))
    assert Path("again.zip").read_bytes() == packed.read_bytes()


def test_the_metadata_are_those_of_an_ro_crate(packed):
    """What RO-Crate 1.1 requires of descriptor, root and files, and flattened JSON-LD without loose ends."""
    document = json.loads(members(packed)[METADATA])
    assert document["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(entities) == len(document["@graph"])
    descriptor, root = entities[METADATA], entities["./"]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset"
    assert (root["name"], root["datePublished"]) == (TITLE, "1970-01-01T00:05:02Z")
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    files = {name for name, entity in entities.items() if entity["@type"] == "File"}
    assert {part["@id"] for part in root["hasPart"]} == files == set(members(packed)) - {METADATA, MANIFEST}

    def references(value):
        if isinstance(value, dict):
            yield from [value["@id"]] if set(value) == {"@id"} else references(list(value.values()))
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    for entity in entities.values():
        assert all(isinstance(entity[key], str) for key in ("@id", "@type"))
        loose = set(references(list(entity.values()))) - set(entities)
        assert loose <= {"https://w3id.org/ro/crate/1.1"}


def test_any_flipped_byte_is_named_or_changes_no_content(packed):
    whole, before, source = packed.read_bytes(), members(packed), random.Random(0)
    named = 0
    places = range(source.randrange(11), len(whole), 11)
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << source.randrange(8)
        packed.write_bytes(changed)
        if found(packed):
            named += 1
        else:
            assert members(packed) == before
    assert named > 0.7 * len(places)


def test_what_was_changed_removed_or_added_is_named(packed, capsys):
    content = members(packed)
    table = content.pop("results/table.csv")
    rebuilt(packed, {**content, "results/report.html": b"<p>else</p>", "results/new.csv": table})
    assert main([str(packed)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1].split(",")[0] for line in told[:3]] == [
        "'results/table.csv': is missing",
        "'results/new.csv': was added",
        "'results/report.html': changed",
    ]


@pytest.mark.parametrize(
    "name", ["../out.txt", "/etc/out.txt", "results/../../out", "a\\b", "C:/out", "results//x", "~/x", "a/./b"]
)
def test_a_member_that_leads_out_of_a_folder_is_named(packed, name):
    rebuilt(packed, {**members(packed), name: b"x"})
    (line,) = found(packed)
    assert line.endswith("is a path that leads out of a folder")


def test_a_link_a_folder_and_a_member_twice_are_named(packed):
    with zipfile.ZipFile(packed, "a") as archive:
        link = zipfile.ZipInfo("results/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("results/folder/", "")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("results/table.csv", "other")
    told = found(packed)
    assert "'results/table.csv': is there 2 times" in told
    assert "'results/link': is no file but a link or a folder" in told
    assert "'results/folder/': is no file but a link or a folder" in told


def test_bytes_that_belong_to_no_member_are_named(packed):
    whole, hidden = packed.read_bytes(), io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("evil.sh", "rm -rf /")
    entry = hidden.getvalue()[: -22 - 46 - len("evil.sh")]  # with its head, and without a place in any list
    packed.write_bytes(b"#!/bin/sh\nexit\n" + whole)
    assert "lies behind 15 bytes that belong to no member" in found(packed)[0]
    packed.write_bytes(whole + b"more")
    assert found(packed)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.start_dir
    end = bytearray(whole[start:])
    end[-6:-2] = (start + len(entry)).to_bytes(4, "little")
    packed.write_bytes(whole[:start] + entry + end)
    assert f"has {len(entry)} bytes that belong to no member" in found(packed)


def test_a_member_that_would_unpack_to_far_more_is_named_and_not_unpacked(packed):
    rebuilt(packed, {**members(packed), "results/bomb.csv": b"0" * (64 << 20)})
    (line,) = found(packed)
    assert line.startswith("'results/bomb.csv': would unpack from ")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_what_is_no_archive_is_named(content, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    assert found(tmp_path / "x.zip")[0].startswith("is no whole zip archive")
    assert found(tmp_path / "none.zip")[0].startswith("cannot be read (No such file")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda document: document["@graph"].pop(0), "does not say that it describes"),
        (lambda document: document["@graph"][1].pop("license"), "its root lacks license"),
        (lambda document: document["@graph"][2].update(contentSize="1"), "says another size or SHA-256"),
        (lambda document: document["@graph"][2].update({"@id": "gone.csv"}), "describes 'gone.csv', which is not"),
        (lambda document: document.pop("@graph"), "is no JSON-LD with a @graph"),
    ],
)
def test_metadata_that_are_none_or_say_what_is_not_so_are_named(packed, change, expected):
    content = members(packed)
    document = json.loads(content[METADATA])
    before = hashlib.sha256(content[METADATA]).hexdigest().encode()
    change(document)
    content[METADATA] = json.dumps(document).encode()
    content[MANIFEST] = content[MANIFEST].replace(before, hashlib.sha256(content[METADATA]).hexdigest().encode())
    rebuilt(packed, content)
    assert expected in " ".join(found(packed))


def test_a_package_without_its_list_or_with_a_broken_one_is_named(packed):
    content = members(packed)
    rebuilt(packed, {**content, MANIFEST: content[MANIFEST] + b"no digest\n"})
    assert found(packed) == [f"{MANIFEST}: line 9 is no new SHA-256 and name"]
    del content[MANIFEST]
    rebuilt(packed, content)
    assert found(packed) == [f"{MANIFEST}: is missing, so that nothing can be compared"]


def test_it_is_checked_elsewhere_by_python_alone(packed, tmp_path):
    """The one file, without the package, without what is installed beside Python, from another folder."""
    shutil.copyfile(verify.__file__, tmp_path / "check.py")
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-I", "-S", str(tmp_path / "check.py"), str(packed.resolve())]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packed.write_bytes(packed.read_bytes()[:-30])
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (1, "", 1)


def test_what_cannot_be_packed_is_named(study):
    about = Study(TITLE, {}, Path())
    with pytest.raises(StoreError, match=r"\.\./x\.html: lies outside the working folder"):
        pack("study.zip", ["../x.html"], study, about)
    with pytest.raises(StoreError, match=r"none\.html: is to be packed and is gone"):
        pack("study.zip", ["results/none.html"], study, about)
    Path("code.json").write_text("{}")
    with pytest.raises(StoreError, match=r"code\.json: has the name of a file that every package has"):
        pack("study.zip", ["code.json"], study, about)
    assert not Path("study.zip").exists()


def test_records_of_several_files_are_those_of_each(study):
    assert all_records(PACKED, study.get) == all_records([*PACKED, "none"], study.get)
    assert set(all_records(PACKED, study.get)) == set(study)


def test_weights_beside_a_pointer_are_of_the_study_and_what_another_rule_put_there_is_not(study):
    pointer, weights, other = (f"results/models/m/{name}" for name in ("model.json", "unet/a.safetensors", "gallery"))
    for path in (pointer, weights, other):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("{}")
    page = {**study["results/report.html"], "input": [*study["results/report.html"]["input"], pointer]}
    trained = {**study["results/features.zarr.zip"], "rule": "train_denoiser"}
    records = {
        **study,
        "results/report.html": page,
        pointer: trained,
        weights: trained,
        other: study["results/table.csv"],
    }
    assert set(all_records(["results/report.html"], records.get)) >= {pointer, weights}
    assert other not in all_records(["results/report.html"], records.get)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_folder_itself(tmp_path):
    assert commit(tmp_path) == {"commit": None, "changed": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a").write_text("1")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    assert commit(tmp_path)["changed"] is False
    assert len(commit(tmp_path)["commit"]) == 40
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path)["changed"] is True
    (tmp_path / "below").mkdir()
    assert commit(tmp_path / "below") == {"commit": None, "changed": None}
