"""Protected copies of a folder: what is read, what is written, and what is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taster.cli import app
from taster.core.batch import Batch
from taster.errors import AttackError, DataError
from taster.experiments.protect import ProtectRequest, check_folder, find_method, protect_folder, protecting_methods
from taster.experiments.protect.image_files import read_picture
from taster.experiments.protect.levels import add_noise, distance, is_within
from taster.experiments.protect.manifest import read_manifest
from taster.perturbations.pgd import LpBall


def photo(seed: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Image.Image:
    """A random image of a height and width."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six images of 12 x 12 pixels."""
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(path)
    return tmp_path / "photos"


def request(photos: Path, name: str = "synthetic_noise", **keywords: Any) -> ProtectRequest:
    """Of the folder `out` beside; settings of the method as `settings`, ε as `epsilon`."""
    method = find_method(
        name, epsilon=keywords.pop("epsilon", 8 / 255), settings={"patch": 4, **keywords.pop("settings", {})}
    )
    return ProtectRequest(photos, photos.parent / "out", method, **keywords)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def pixels(path: Path) -> np.ndarray:
    return np.asarray(opened(path)).astype(int)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_copies_have_the_names_of_their_originals_and_are_within_epsilon(photos: Path) -> None:
    (photos / "a" / "note.txt").write_text("left alone")
    photo(50).save(photos / "a" / "deep.JPG", "JPEG")
    before = content(photos)
    made = protect_folder(request(photos))
    assert content(photos) == before
    assert made.found.others == 1
    out = photos.parent / "out" / "images"
    assert {str(Path(name).with_suffix(".png")) for name in before if not name.endswith("txt")} == set(content(out))
    greatest = 0
    for name in before:
        if not name.endswith("txt"):
            change = np.abs(pixels(out / Path(name).with_suffix(".png")) - pixels(photos / name)).max()
            greatest = max(greatest, int(change))
    assert greatest == 8
    assert made.protected.shape == (13, 3, 12, 12)
    place = made.found.names.index("a/0.png")
    assert np.array_equal((made.protected[place] * 255).round().permute(1, 2, 0).numpy(), pixels(out / "a" / "0.png"))
    assert [path.name for path in photos.parent.iterdir() if path.name.startswith(".")] == []


def test_the_same_seed_gives_the_same_files_and_another_seed_others(photos: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        protect_folder(request(photos, seed=seed, force=True))
        found.append(content(photos.parent / "out" / "images"))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", ["error_minimising_noise", "universal_noise"])
def test_a_method_that_trains_nets_works_and_depends_on_nothing_before_it(photos: Path, name: str) -> None:
    quick = {
        "error_minimising_noise": {"max_rounds": 1, "train_steps": 1, "pgd_steps": 1},
        "universal_noise": {"passes": 1, "pgd_steps": 1},
    }[name]
    found = []
    for _ in range(2):
        torch.rand(3)
        made = ProtectRequest(photos, photos.parent / "out", find_method(name, settings=quick), force=True)
        protect_folder(made)
        found.append(content(photos.parent / "out"))
    assert found[0] == found[1]
    assert any(
        not np.array_equal(pixels(photos / name), pixels(photos.parent / "out" / "images" / name))
        for name in ("a/0.png", "b/1.png")
    )


def test_images_of_other_sizes_get_noise_that_is_enlarged(photos: Path) -> None:
    photo(60, (70, 41)).save(photos / "a" / "large.webp", lossless=True)
    made = protect_folder(request(photos))
    assert made.size == (32, 32)
    assert made.resized == 13
    change = pixels(photos.parent / "out" / "images" / "a" / "large.png") - pixels(photos / "a" / "large.webp")
    assert change.shape == (70, 41, 3)
    assert 0 < np.abs(change).max() <= 8
    assert protect_folder(request(photos, size=(12, 12), force=True)).resized == 1
    with pytest.raises(AttackError, match="wanted 'linf', which enlarging keeps"):
        protect_folder(request(photos, force=True, epsilon=1.0, settings={"norm": "l2"}))


def test_gray_palette_and_transparent_images_keep_what_they_are(photos: Path) -> None:
    photo(70, mode="L").save(photos / "a" / "gray.png")
    photo(71, mode="RGBA").save(photos / "a" / "clear.png")
    photo(72).quantize(8).save(photos / "b" / "palette.png")
    protect_folder(request(photos))
    out = photos.parent / "out" / "images"
    gray, clear = opened(out / "a" / "gray.png"), opened(out / "a" / "clear.png")
    assert gray.mode == "RGB"  # beside images in colour
    assert clear.mode == "RGBA"
    assert np.array_equal(np.asarray(clear)[:, :, 3], np.asarray(opened(photos / "a" / "clear.png"))[:, :, 3])
    original = np.asarray(opened(photos / "b" / "palette.png").convert("RGB")).astype(int)
    assert 0 < np.abs(pixels(out / "b" / "palette.png") - original).max() <= 8


def test_a_folder_of_gray_images_stays_gray(tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number, mode="LA" if number == 0 else "L").save(path)
    made = protect_folder(request(tmp_path / "photos"))
    assert made.clean.shape == (8, 1, 12, 12)
    assert [opened(tmp_path / "out" / "images" / name).mode for name in ("a/0.png", "b/1.png")] == ["LA", "L"]


def with_exif(path: Path) -> None:
    """A JPEG that was held sideways, has a place, and a preview."""
    image = photo(80, (12, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[1] = "N"
    image.save(path, "JPEG", exif=exif, icc_profile=b"a profile", quality=95)


def test_exif_is_kept_or_dropped_with_the_pixels_turned(photos: Path) -> None:
    with_exif(photos / "a" / "phone.jpg")
    protect_folder(request(photos))
    copy = photos.parent / "out" / "images" / "a" / "phone.png"
    kept = opened(copy)
    assert kept.size == (20, 12)
    assert kept.getexif()[0x0112] == 6
    assert kept.getexif().get_ifd(0x8825)[1] == "N"
    assert kept.info["icc_profile"] == b"a profile"
    protect_folder(request(photos, strip_exif=True, force=True))
    dropped = opened(copy)
    assert dropped.size == (12, 20)
    assert not dropped.getexif()
    assert dropped.info["icc_profile"] == b"a profile"
    assert check_folder(photos.parent / "out", photos).faults == ()


def test_a_preview_in_exif_does_not_show_the_original(photos: Path) -> None:
    small = io.BytesIO()
    photo(81, (8, 8)).save(small, "JPEG")
    exif = Image.Exif()
    exif[0x010F] = "camera"
    first = exif.tobytes()
    # A second directory behind the first, which holds the place and length of a JPEG.
    header, body = first[:6], bytearray(first[6:])
    order = "little" if body[:2] == b"II" else "big"
    at = int.from_bytes(body[4:8], order)
    count = int.from_bytes(body[at : at + 2], order)
    link, start = at + 2 + 12 * count, len(body)
    body[link : link + 4] = start.to_bytes(4, order)
    data = small.getvalue()
    body += (2).to_bytes(2, order)
    for tag, value in ((0x0201, start + 2 + 24 + 4), (0x0202, len(data))):
        body += tag.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order) + value.to_bytes(4, order)
    body += (0).to_bytes(4, order) + data
    photo(82).save(photos / "a" / "phone.jpg", "JPEG", exif=header + bytes(body))
    assert data in (photos / "a" / "phone.jpg").read_bytes()
    found = read_picture(photos / "a" / "phone.jpg")
    assert b"camera" in found.exif
    assert b"JFIF" not in found.exif


def test_a_profile_of_gray_does_not_go_with_pixels_that_become_colour(photos: Path) -> None:
    gray, colour = (bytes(16) + kind + bytes(108) for kind in (b"GRAY", b"RGB "))
    photo(70, mode="L").save(photos / "a" / "gray.png", icc_profile=gray)
    photo(71).save(photos / "a" / "colour.png", icc_profile=colour)
    protect_folder(request(photos))
    copies = photos.parent / "out" / "images" / "a"
    assert opened(copies / "gray.png").mode == "RGB"
    assert "icc_profile" not in opened(copies / "gray.png").info
    assert opened(copies / "colour.png").info["icc_profile"] == colour


@pytest.mark.parametrize("kind", ["16 bit gray", "16 bit colour", "cmyk", "animation", "broken", "text", "empty"])
def test_files_that_cannot_be_protected_are_named(photos: Path, kind: str) -> None:
    path = photos / "b" / "odd.png"
    if kind == "16 bit gray":
        Image.fromarray(np.zeros((12, 12), np.uint16)).save(path)
        wanted = "more than 8 bits"
    elif kind == "16 bit colour":
        path.write_bytes(deep_png())
        wanted = "more than 8 bits"
    elif kind == "cmyk":
        path = path.with_suffix(".jpg")
        photo(1).convert("CMYK").save(path)
        wanted = "colours of the kind CMYK"
    elif kind == "animation":
        photo(1).save(path, save_all=True, append_images=[photo(2)])
        wanted = "an animation"
    elif kind == "broken":
        path.write_bytes((photos / "b" / "1.png").read_bytes()[:60])
        wanted = "cannot be read as an image"
    else:
        path.write_bytes(b"hello" if kind == "text" else b"")
        wanted = "got no PNG, JPEG or WebP in spite of its name"
    with pytest.raises(DataError, match=wanted) as caught:
        protect_folder(request(photos))
    assert str(path) in str(caught.value)
    assert not (photos.parent / "out").exists()


def deep_png() -> bytes:
    """A PNG of 12 x 12 pixels with 16 bits a channel, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(12 * 6) for _ in range(12))
    head = struct.pack(">IIBBBBB", 12, 12, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_folders_that_cannot_be_used_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        protect_folder(request(tmp_path / "nothing"))
    with pytest.raises(DataError, match="6 images in 0 sub-folders, 6 of them in none"):
        protect_folder(request(photos / "a"))
    photo(90).save(photos / "b" / "1.JPG", "JPEG")
    with pytest.raises(DataError, match=r"b/1\.JPG, b/1\.png: got files whose copies would have one name"):
        protect_folder(request(photos))


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "link to itself"])
def test_what_is_no_file_is_named_and_not_waited_for(photos: Path, kind: str) -> None:
    odd = photos / "a" / "odd.png"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("odd.png" if kind == "link to itself" else "nothing.png")
    with pytest.raises(DataError, match=r"a/odd\.png: got what is no file \(a link to nothing, a pipe\)"):
        protect_folder(request(photos))


@pytest.mark.parametrize(
    "name", ["a/x\\y.png", "C:/1.png", "12:30/1.png", os.fsdecode(b"a/\xff.png"), os.fsdecode(b"\xff/1.png")]
)
def test_names_that_the_manifest_cannot_hold_are_refused_before_the_noise(photos: Path, name: str) -> None:
    (photos / name).parent.mkdir(exist_ok=True)
    try:
        (photos / name).write_bytes((photos / "a" / "0.png").read_bytes())
    except OSError:
        pytest.skip("this file system does not have such names")
    with pytest.raises(DataError, match="got such names, wanted a path inside of the folder, in Unicode, without"):
        protect_folder(request(photos))
    assert not (photos.parent / "out").exists()


@pytest.mark.parametrize("name", ["a/x\ny.png", "a/<b>&.png", "a/ .png", "a/x..png", "a/[bold].png", "é/日本.png"])
def test_other_names_are_kept_whatever_they_are(photos: Path, name: str) -> None:
    (photos / name).parent.mkdir(exist_ok=True)
    photo(60).save(photos / name)
    protect_folder(request(photos))
    assert (photos.parent / "out" / "images" / name).is_file()
    assert not check_folder(photos.parent / "out", photos).faults


def test_nothing_is_overwritten_without_force_and_only_what_it_wrote_with_it(photos: Path) -> None:
    out = photos.parent / "out"
    protect_folder(request(photos))
    before = content(out)
    with pytest.raises(DataError, match="is there already; wanted a new folder, or --force"):
        protect_folder(request(photos, seed=1))
    assert content(out) == before
    protect_folder(request(photos, seed=1, force=True))
    assert content(out) != before
    (out / "protect.json").unlink()
    before = content(out)
    with pytest.raises(DataError, match=r"no protect\.json in it"):
        protect_folder(request(photos, force=True))
    assert content(out) == before
    for inside in (photos, photos / "a" / "out", photos.parent):
        with pytest.raises(DataError, match="holds the originals or lies among them"):
            protect_folder(ProtectRequest(photos, inside, find_method("synthetic_noise"), force=True))


@pytest.mark.parametrize("name", ["notes.txt", "images/a/mine.png", "more/x"])
def test_force_does_not_remove_what_somebody_else_put_there(photos: Path, name: str) -> None:
    out = photos.parent / "out"
    protect_folder(request(photos))
    (out / "protect.html").write_text("the page, which is replaced")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = content(photos.parent)
    with pytest.raises(DataError, match=f"did not write, and is not replaced: {name.removesuffix('/x')}") as told:
        protect_folder(request(photos, force=True))
    assert "protect.html" not in str(told.value)
    assert content(photos.parent) == before


def test_what_appears_in_its_place_while_noise_is_made_stays(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = photos.parent / "out"

    def make_noise(clean: Batch, *_: Any) -> torch.Tensor:
        out.mkdir()
        (out / "mine").write_text("mine")
        return torch.zeros_like(clean.x)

    monkeypatch.setattr("taster.experiments.protect.protect._craft", make_noise)
    with pytest.raises(DataError, match="is there already"):
        protect_folder(request(photos))
    assert content(out) == {"mine": b"mine"}
    assert sorted(path.name for path in photos.parent.iterdir()) == ["out", "photos"]


def test_a_link_is_not_replaced(photos: Path) -> None:
    (photos.parent / "empty").mkdir()
    for target in ("empty", "nothing", "out"):
        (photos.parent / "out").symlink_to(target)
        with pytest.raises(DataError, match=r"--out: .*(a link; wanted a new folder|cannot be used)"):
            protect_folder(request(photos, force=True))
        (photos.parent / "out").unlink()
    assert sorted(path.name for path in photos.parent.iterdir()) == ["empty", "photos"]


@pytest.mark.parametrize(
    ("out", "wanted"),
    [
        ("file/out", "cannot be made: Not a directory"),
        ("x" * 300, "cannot be used: File name too long"),
        ("x/" * 3000, "cannot be used: File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_before_the_noise(
    photos: Path, out: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "file").write_text("a file")
    monkeypatch.setattr("taster.experiments.protect.protect._craft", lambda *_: pytest.fail("noise was made"))
    with pytest.raises(DataError, match=wanted) as told:
        protect_folder(ProtectRequest(photos, photos.parent / out, find_method("synthetic_noise")))
    assert len(str(told.value)) < 400
    assert sorted(path.name for path in photos.parent.iterdir()) == ["file", "photos"]


def test_folders_made_on_the_way_go_again_where_it_fails(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AttackError("no noise")

    monkeypatch.setattr("taster.experiments.protect.protect._craft", fail)
    with pytest.raises(AttackError, match="no noise"):
        protect_folder(ProtectRequest(photos, photos.parent / "a" / "b" / "out", find_method("synthetic_noise")))
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos"]


def test_the_folder_that_one_is_in_is_not_replaced(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos.parent / "out" / "deep").mkdir(parents=True)
    monkeypatch.chdir(photos.parent / "out" / "deep")
    for out in (".", "..", photos.parent / "out"):
        with pytest.raises(DataError, match="which you are in"):
            protect_folder(ProtectRequest(photos, Path(out), find_method("synthetic_noise")))


def test_a_failure_on_the_way_leaves_nothing_and_the_old_folder_as_it_was(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect_folder(request(photos))
    before = content(photos.parent)

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("taster.experiments.protect.protect.write_atomically", fail)
    with pytest.raises(OSError, match="no space left"):
        protect_folder(request(photos, seed=1, force=True))
    assert content(photos.parent) == before


def test_only_methods_that_change_images_by_little_are_taken() -> None:
    assert set(protecting_methods()) >= {
        "error_minimising_noise",
        "error_maximising_noise",
        "synthetic_noise",
        "universal_noise",
        "random_class_noise",
        "robust_minimising_noise",
        "gradient_alignment",
        "tensor_clog",
        "ntga",
    }
    for name in ("label_flip", "patch_backdoor", "svm_poisoning", "feature_collision", "sign_flip", "nonsense"):
        assert name not in protecting_methods()
        with pytest.raises(AttackError, match="inserts no image, bounds by a ball"):
            find_method(name)
    with pytest.raises(AttackError, match=r"synthetic_noise\.patches: got an unknown key"):
        find_method("synthetic_noise", settings={"patches": 3})


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounding_stays_in_the_ball(norm: Any) -> None:
    draws = torch.Generator().manual_seed(0)
    for epsilon in (1 / 255, 8 / 255, 0.03, 0.5):
        ball = LpBall(norm, epsilon)
        wide = LpBall(norm, epsilon, -1, 1)
        original = torch.randint(256, (3, 9, 9), generator=draws, dtype=torch.uint8)
        noise = wide.random_boundary(torch.zeros(1, 3, 9, 9), draws)[0]
        protected = add_noise(original, noise, ball)
        assert is_within(protected, original, ball)
        if norm == "linf":
            inner = (original > 128 - 1) & (original < 128 + 1)
            assert distance(protected, original, ball) == pytest.approx(int(epsilon * 255 + 1e-4) / 255)
            assert bool((protected[inner] != original[inner]).all())
    far = original.clone()
    far[0, 0, 0] = 255 - far[0, 0, 0]
    assert not is_within(far, original, LpBall("linf", 0.5 / 255))
    with pytest.raises(AttackError, match="wanted at least 1/255"):
        add_noise(original, noise, LpBall("linf", 0.003))


def test_a_check_finds_what_is_missing_changed_too_far_or_not_ours(photos: Path) -> None:
    out = photos.parent / "out"
    protect_folder(request(photos))
    found = check_folder(out, photos)
    assert found.faults == ()
    assert found.greatest == pytest.approx(8 / 255)
    assert check_folder(out).greatest is None
    (out / "images" / "a" / "0.png").unlink()
    photo(99).save(out / "images" / "b" / "1.png")
    photo(99).save(out / "images" / "more.png")
    photo(98).save(photos / "a" / "2.png")
    (photos / "a" / "4.png").unlink()
    faults = check_folder(out, photos).faults
    assert faults == (
        "images/a/0.png: is missing",
        "a/2.png: the original has changed since",
        "a/4.png: the original is missing",
        "images/b/1.png: has changed since it was written",
        "images/more.png: was not written by taster protect",
    )
    manifest = json.loads((out / "protect.json").read_text())
    manifest["epsilon"] = 4 / 255
    (out / "protect.json").write_text(json.dumps(manifest))
    assert "images/a/6.png: is further from its original than ε" in check_folder(out, photos).faults


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"taster_format": 2}, "got protected copies of format 2, this taster reads up to 1: a newer one wrote it"),
        ({"taster_format": "1"}, "got '1' as taster_format of protected copies, wanted a whole number"),
        ({"taster_format": None}, "got None as taster_format of protected copies"),
        ({"more": 1}, "not what taster protect writes: more: got an unknown key"),
        ({"files": 3}, "files: got 3, wanted a valid array"),
        ({"norm": "l1"}, "norm: got 'l1', wanted 'linf' or 'l2'"),
    ],
)
def test_a_manifest_of_another_form_is_told(photos: Path, change: dict[str, Any], wanted: str) -> None:
    out = photos.parent / "out"
    protect_folder(request(photos))
    assert json.loads((out / "protect.json").read_text())["taster_format"] == 1
    whole = (out / "protect.json").read_text()
    (out / "protect.json").write_text(json.dumps({**json.loads(whole), **change}))
    with pytest.raises(DataError, match=wanted):
        check_folder(out)
    for damaged in ("", "[]", "{", "null", whole[:-9], "{}"):
        (out / "protect.json").write_text(damaged)
        with pytest.raises(DataError, match=r"protect\.json"):
            check_folder(out)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a\\b.png", "c:/x.png", "a\0.png", "x" * 300, "."])
def test_a_manifest_cannot_name_files_elsewhere(photos: Path, name: str) -> None:
    out = photos.parent / "out"
    protect_folder(request(photos))
    manifest = json.loads((out / "protect.json").read_text())
    manifest["files"][0]["file"] = name
    (out / "protect.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="not what taster protect writes"):
        read_manifest(out)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """The command as a user calls it: exit code and both streams."""
    from taster.cli import main

    monkeypatch.setattr("sys.argv", ["taster", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_the_command_writes_measures_and_checks(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photos.parent / "out"
    words = ["protect", photos, "--out", out, "--method", "synthetic_noise", "--set", "patch=4", "--epsilon", "16/255"]
    code, said, _ = run(capsys, monkeypatch, *words, "--epochs", 1, "--seeds", 1, "--json", "--quiet")
    assert code == 0
    found = json.loads(said)
    assert list(found["accuracy"])[:3] == ["none", "grey", "jpeg"]
    assert set(found["accuracy"]["none"]) == {"unprotected", "random noise", "protected"}
    assert found["trained"] + found["trusted"] + found["tested"] == 12
    page = (out / "protect.html").read_text()
    assert "What no method can do" in page
    assert "16 of 255 levels" in page
    assert str(photos) not in page
    code, said, _ = run(capsys, monkeypatch, "protect", photos, "--check", out)
    assert (code, "12 copies, all there and unchanged" in said) == (0, True)
    (out / "images" / "a" / "0.png").unlink()
    code, said, err = run(capsys, monkeypatch, "protect", "--check", out)
    assert code == 2
    assert "images/a/0.png: is missing" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--out", "x"], "IMAGES: got nothing"),
        (["photos"], "--out: got nothing"),
        (["photos", "--out", "x", "--epsilon", "8/0"], "--epsilon: got '8/0'"),
        (["photos", "--out", "x", "--epsilon", "8"], "wanted at most 1, as 8/255"),
        (["photos", "--out", "x", "--epsilon", "0.001"], "the least change of an image of 8 bits"),
        (["photos", "--out", "x", "--epsilon", "nan"], "--epsilon: got 'nan'"),
        (["photos", "--out", "x", "--epsilon", "1/" + "9" * 5000], "the least change of an image of 8 bits"),
        (["photos", "--out", "x", "--epsilon", "9" * 5000], "which is inf; wanted at most 1"),
        (["photos", "--out", "x", "--epsilon", "9" * 400 + "/" + "9" * 400], "which is inf; wanted at most 1"),
        (["photos", "--out", "x", "--set", "epsilon=2"], "synthetic_noise.epsilon: got 2, wanted at most 1"),
        (["photos", "--out", "x", "--size", "4x4"], "--size: got '4x4'"),
        (["photos", "--out", "x", "--method", "label_flip"], "--method: got 'label_flip'"),
        (["photos", "--out", "x", "--set", "alpha=1"], "synthetic_noise.alpha: got an unknown key"),
        (["--check", "photos"], "no protect.json in it"),
    ],
)
def test_mistakes_on_the_command_line_are_one_message(
    photos: Path, words: list[str], wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    extra = [] if "--method" in words or "--check" in words else ["--method", "synthetic_noise"]
    code, _, err = run(capsys, monkeypatch, "protect", *words, *extra)
    assert code == 2
    assert wanted in err.replace("\n", " ")
    assert "Traceback" not in err
    assert not (photos.parent / "x").exists()


def test_too_few_images_of_a_class_to_measure_with(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (5, 7, 9, 11):
        (photos / "b" / f"{number}.png").unlink()
    words = ["protect", photos, "--out", photos.parent / "out", "--method", "synthetic_noise", "--set", "patch=4"]
    code, _, err = run(capsys, monkeypatch, *words)
    assert code == 2
    assert "got 2 images of the class 'b', wanted at least 4 to measure with" in err.replace("\n", " ")
    assert not (photos.parent / "out").exists()
    code, _, _ = run(capsys, monkeypatch, *words, "--no-measure")
    assert code == 0
    assert "Not measured" in (photos.parent / "out" / "protect.html").read_text()


def test_it_is_a_command() -> None:
    assert "protect" in {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
