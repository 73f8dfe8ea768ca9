"""Files of every depth, mode and orientation become the pixels that a viewer shows."""

import struct
import zlib

import numpy as np
import pytest
from commands import need_ffcv
from PIL import Image, ImageCms, ImageColor

from mrl_experiments.data.images.read_image import Readings, gathered, read_image
from mrl_experiments.data.loaders.beton import Storage
from mrl_experiments.data.loaders.cache import Cache
from mrl_experiments.data.reading import Tally
from mrl_experiments.errors import UserError

GREY = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
WANTED = np.rint(GREY / 257)[..., None]
COLOUR = np.zeros((6, 8, 3), np.uint8) + np.array([200, 20, 60], np.uint8)
COLOUR[:2, :3] = [10, 200, 30]


def close(path, wanted, kind=None, tolerance=0):
    converted = Tally()
    found = read_image(path, 3, converted)
    assert found.dtype == np.uint8 and found.shape == (*np.shape(wanted)[:2], 3)
    assert np.abs(found.astype(int) - wanted).max() <= tolerance
    assert [*converted.kinds] == ([kind] if kind else [])


@pytest.mark.parametrize("name", ["g.png", "g.tif", "lzw.tif", "big_endian.tif"])
def test_16_bits_are_scaled(name, tmp_path):
    image = Image.fromarray(GREY)
    if name.startswith("big"):
        image = Image.frombytes("I;16B", (8, 6), GREY.astype(">u2").tobytes())
    image.save(tmp_path / name, **({"compression": "tiff_lzw"} if name.startswith("lzw") else {}))
    close(tmp_path / name, WANTED, "of 16 bits, scaled to 8")


@pytest.mark.parametrize(("maxval", "shift"), [(65535, 0), (1023, 6), (4095, 4)])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_is_scaled_by_its_maxval(maxval, shift, plain, tmp_path):
    values = GREY >> shift
    body = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    (tmp_path / "g.pgm").write_bytes(f"P{2 if plain else 5} 8 6 {maxval}\n".encode() + body)
    close(tmp_path / "g.pgm", WANTED, "of 16 bits, scaled to 8", tolerance=1)


def test_dark_pictures_of_16_bits_stay_dark(tmp_path):
    (tmp_path / "dark.pgm").write_bytes(b"P5 8 6 65535\n" + (GREY // 1000).astype(">u2").tobytes())
    Image.fromarray(GREY // 1000).save(tmp_path / "dark.png")
    for name in ("dark.pgm", "dark.png"):
        said = "of 16 bits, scaled to 8 and dark, since none exceeds 4,095"
        close(tmp_path / name, np.zeros((6, 8, 1)), said)


@pytest.mark.parametrize(
    "values",
    [GREY / 65535, GREY / 65535 * 1.05, GREY / 257, GREY.astype(float), GREY / 65535 * 2 - 1, GREY * 1e6],
    ids=["to 1", "a little beyond 1", "to 255", "to 65535", "-1 to 1", "to anything"],
)
def test_floating_point_is_scaled_by_its_range(values, tmp_path):
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "f.tif")
    wanted = np.clip(WANTED * 1.05, 0, 255) if 1 < values.max() < 2 else WANTED
    close(tmp_path / "f.tif", wanted, "of floating-point values, scaled to 8 bits", tolerance=1)


@pytest.mark.parametrize(
    "values",
    [GREY.astype("<i4"), GREY.astype("<i4") * 20000, GREY.astype("<i4") - 40000, GREY.astype("<u4") * 65537],
    ids=["to 65535", "to anything", "below 0", "unsigned"],
)
def test_32_bits_are_scaled(values, tmp_path):
    write_tiff(tmp_path / "i.tif", values)
    close(tmp_path / "i.tif", WANTED, "of 32 bits, scaled to 8", tolerance=1)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "|i1"])
def test_signed_values_are_scaled_from_the_smallest(kind, tmp_path):
    lowest, span = (-128, 255) if kind == "|i1" else (-1000, 2000)
    values = np.rint(lowest + GREY / 65535 * span).astype(kind)
    write_tiff(tmp_path / "s.tif", values)
    close(tmp_path / "s.tif", WANTED, "of signed values, scaled to 8 bits", tolerance=1)


@pytest.mark.parametrize("kind", ["|u1", "<u2"])
def test_where_white_is_zero_it_is_white(kind, tmp_path):
    write_tiff(tmp_path / "w.tif", (GREY if kind == "<u2" else WANTED[..., 0]).astype(kind), photometric=0)
    close(tmp_path / "w.tif", 255 - WANTED, "of 16 bits, scaled to 8" if kind == "<u2" else None)


def write_tiff(path, values, photometric=1):
    """A grey TIFF of any integers; photometric: 0 where white is zero."""
    order, data = ">" if values.dtype.byteorder == ">" else "<", values.tobytes()
    height, width = values.shape
    tags = {
        256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8 + 2 + 10 * 12 + 4,
        277: 1, 278: height, 279: len(data), 339: {"u": 1, "i": 2}[values.dtype.kind],
    }  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(tags))
    path.write_bytes(start + entries + bytes(4) + data)


def drawing():
    """A black line on nothing: colours and opacity."""
    opacity = np.zeros((6, 8), np.uint8)
    opacity[2] = 255
    return np.zeros((6, 8), np.uint8), opacity, (255 - opacity)[..., None]


@pytest.mark.parametrize(
    "name", ["rgba.png", "rgba.webp", "rgba.tif", "la.png", "p.png", "p.gif", "l.png", "i.png"]
)
def test_what_is_transparent_is_white(name, tmp_path):
    black, opacity, wanted = drawing()
    path, options = tmp_path / name, {}
    image = Image.fromarray(np.stack([black, black, black, opacity], axis=-1))
    if name.startswith("la"):
        image = image.convert("LA")
    elif name[0] == "p":
        image = Image.fromarray(opacity // 255).convert("P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        options = {"transparency": 0}
    elif name[0] in "li":
        image = Image.fromarray(np.where(opacity, 0, 7).astype(np.uint8 if name[0] == "l" else np.uint16))
        options = {"transparency": 7}
    elif name.endswith("webp"):
        options = {"lossless": True}
    image.save(path, **options)
    converted = Tally()
    assert (read_image(path, 3, converted) == wanted).all() and (read_image(path, 1) == wanted).all()
    assert "transparent, laid on white" in converted.kinds


def test_half_transparent_is_between(tmp_path):
    Image.fromarray(np.full((6, 8, 4), [0, 0, 0, 128], np.uint8)).save(tmp_path / "h.png")
    close(tmp_path / "h.png", np.full((6, 8, 3), 127), "transparent, laid on white", tolerance=1)
    Image.fromarray(np.full((6, 8, 4), [9, 9, 9, 255], np.uint8)).save(tmp_path / "o.png")
    close(tmp_path / "o.png", np.full((6, 8, 3), 9))  # opaque: nothing to say


TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_says_which_side_is_up(orientation, ending, tmp_path):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = orientation
    stored = image if orientation == 1 else image.transpose(TURNED[orientation])
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    stored.save(tmp_path / f"o.{ending}", exif=exif, **options)
    kind = None if orientation == 1 else "turned as EXIF says"
    close(tmp_path / f"o.{ending}", COLOUR, kind, tolerance=12 if ending == "jpg" else 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_other_modes(mode, tmp_path):
    image = Image.new("RGB", (8, 6), (255, 0, 0) if mode != "1" else (255, 255, 255))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        image = image.convert(mode)
    path = tmp_path / {"CMYK": "m.jpg", "YCbCr": "m.jpg", "LAB": "m.tif"}.get(mode, "m.png")
    image.save(path)
    wanted = {"1": (255, 255, 255), "L": (76, 76, 76)}.get(mode, (255, 0, 0))
    kind = f"converted from {mode}" if mode in ("CMYK", "LAB") else None
    close(path, np.full((6, 8, 3), wanted), kind, tolerance=12)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_of_several_frames_the_first_is_read(name, tmp_path):
    frames = [Image.new("RGB", (8, 6), (value, value, value)) for value in (10, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    close(
        tmp_path / name, np.full((6, 8, 3), 10), "of several frames, the first of which is read", tolerance=2
    )


def png(width, height, depth=1, colour=0, row=None, clear=()):
    """A PNG of equal rows, black without `row`; clear: the colour that is transparent."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    rows = zlib.compress((bytes(1) + (row or bytes((width * depth + 7) // 8))) * height)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header)
    if clear:
        parts += chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "row", "clear", "wanted"),
    [
        (1, [0b01000000], 0, [255, 255]),
        (2, [0b01100000], 1, [255, 170]),
        (4, [0x5A], 5, [255, 170]),
        (8, [85, 170], 85, [255, 170]),
        (16, [0x55, 0x55, 0xAA, 0xAA], 0x5555, [255, 170]),
    ],
)
def test_the_transparent_grey_of_any_depth_is_white(depth, row, clear, wanted, tmp_path):
    (tmp_path / "t.png").write_bytes(png(2, 1, depth, 0, bytes(row), [clear]))
    assert read_image(tmp_path / "t.png", 3)[0, :, 0].tolist() == wanted


def test_colours_of_16_bits_are_scaled_and_told(tmp_path):
    row = struct.pack(">6H", 257, 514, 771, 65535, 0, 257 * 100)
    (tmp_path / "c.png").write_bytes(png(2, 1, 16, 2, row))
    close(tmp_path / "c.png", [[[1, 2, 3], [255, 0, 100]]], "of 16 bits, scaled to 8")
    (tmp_path / "t.png").write_bytes(png(2, 1, 16, 2, row, [257, 514, 771]))
    assert read_image(tmp_path / "t.png", 3).tolist() == [[[255, 255, 255], [255, 0, 100]]]
    (tmp_path / "c.ppm").write_bytes(b"P6 1 1 1023\n" + struct.pack(">3H", 0, 512, 1023))
    close(tmp_path / "c.ppm", [[[0, 128, 255]]], "of 16 bits, scaled to 8", tolerance=1)


def test_a_bitmap_of_5_and_6_bits_is_nothing_to_tell(tmp_path):
    header = struct.pack("<IiiHHIIiiII3I", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    content = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + header + struct.pack("<2H", 0xF800, 0x1F)
    (tmp_path / "b.bmp").write_bytes(content)
    close(tmp_path / "b.bmp", [[[255, 0, 0], [0, 0, 255]]])


def test_exif_that_cannot_be_read_turns_nothing(tmp_path, monkeypatch):
    def broken(self):
        raise SyntaxError("not a TIFF file")

    Image.fromarray(COLOUR).save(tmp_path / "e.png")
    monkeypatch.setattr(Image.Image, "getexif", broken)
    close(tmp_path / "e.png", COLOUR, "with EXIF that cannot be read")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"II*\0" + bytes(60), "a TIFF of a kind that Pillow does not know"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\xef\xbb\xbf  <svg></svg>", "text such as HTML or SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is not run"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(9), "HEIC or a film"),
        (b"GIF of a cat", "its format is not known"),
    ],
)
def test_what_a_file_is_instead_of_a_picture(content, problem, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_image(tmp_path / "x.jpg", 3)


def broken(folder):
    Image.fromarray(COLOUR).save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    files = {
        "cut.png": content[: len(content) // 2],
        "empty.png": b"",
        "text.png": b"<html>not found</html>",
        "bomb.png": png(20000, 20000),
        "nothing.jpg": b"\xff\xd8\xff",
        "more.png": content[:20],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    Image.fromarray(np.full((6, 8), np.nan, np.float32)).save(folder / "nan.tif")
    return [folder / name for name in (*files, "nan.tif")]


def test_each_broken_file_is_named_in_one_line(tmp_path):
    for path in broken(tmp_path):
        with pytest.raises(UserError, match=f"{path.name} cannot be read as an image: ") as caught:
            read_image(path, 3)
        assert "\n" not in caught.value.problem and "BytesIO" not in caught.value.problem


@pytest.mark.parametrize("kind", ["files", "beton"])
def test_all_broken_files_are_named_at_once(kind, pictures, tmp_path, monkeypatch):
    if kind == "beton":
        need_ffcv()
    (tmp_path / "images").mkdir()
    lost = broken(tmp_path / "images")
    source = pictures(count=150)
    source.size = None
    samples = [(tmp_path / "images" / "whole.png", 0)] * 150
    for place, path in zip((3, 70, 71, 72, 100, 140, 149), lost, strict=True):
        samples[place] = (path, 0)
    monkeypatch.setattr(source, "open", lambda split: samples)
    cache = Cache(tmp_path / "cache", source, {"train": Storage(max_size=100)})
    with pytest.raises(UserError, match="7 of 150 images cannot be read") as caught:
        getattr(cache, kind)("train", 2)
    lines = caught.value.problem.splitlines()
    assert [path.name in line for path, line in zip(lost, lines[1:6], strict=False)] == [True] * 5
    assert lines[6].strip() == "and 2 more"
    assert not list(cache.folder.glob("train.*"))


def test_broken_files_of_both_splits_are_named_at_once(image_data, pictures, tmp_path):
    lost = broken(tmp_path)
    source = pictures(count=2)
    source.size = None
    parts = {"train": [(lost[0], 0), (lost[1], 1)], "val": [(lost[2], 0)]}
    source.open = lambda split: parts[split]
    with pytest.raises(UserError, match=r"2 of 2 images(.|\n)*cut(.|\n)*empty(.|\n)*text"):
        image_data(source, "torch", size=16).prepare_data()


def test_readings_of_several_workers_are_one(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "g.png")
    parts = [Readings(), Readings(), Readings()]
    for number, part in enumerate(parts[:2]):
        part.read(number, tmp_path / "g.png", 3)
    described = gathered(parts, 2)
    assert described["converted"]["of 16 bits, scaled to 8"]["count"] == 2
    assert len(described["digests"]) == 2 * 16 and described["digests"][:16] == described["digests"][16:]


@pytest.mark.slow
@pytest.mark.parametrize("max_size", [500, None])
def test_narrow_images_are_read_by_both_loaders(max_size, image_data, pictures, tmp_path):
    need_ffcv()
    colours = {(900, 1): "#c86432", (1, 3000): "#3264c8", (2000, 2): "#64c832", (1, 1): "#c83264"}
    colours |= {(3, 70000): "#6432c8", (40, 30): "#32c864"}
    source = pictures(count=2)
    source.size, files = None, []
    for number, (size, colour) in enumerate(colours.items()):
        Image.new("RGB", size, colour).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png", number % 2))
    source.open = lambda split: files
    whole = np.array([ImageColor.getrgb(colour) for colour in colours.values()]) / 255
    storage = {"default": {"mode": "proportion", "max_size": max_size, "jpeg_share": 1.0}}
    for loader in ("ffcv", "torch"):
        augment = {"crop": [0.25, 1.0], "mean": [0, 0, 0], "std": [1, 1, 1]}
        data = image_data(source, loader, size=16, storage=storage, augment=augment, batch_size=6)
        for batches in (data.val_dataloader(), data.train_dataloader()):
            (images, _, positions) = next(iter(batches))
            expected = whole[positions.numpy()][:, :, None, None]
            np.testing.assert_allclose(images.numpy(), np.broadcast_to(expected, images.shape), atol=0.02)
