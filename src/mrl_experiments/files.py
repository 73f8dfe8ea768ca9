"""Atomic writing of files, checksums, and reading of users' files."""

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.errors import UserError, said, shown

DIGEST = "digest"  # the key under which a JSON object carries the checksum of its other keys
MAPPING = "a JSON object {name: name}, or a CSV file with a heading and two columns"
LARGE = 1 << 30  # bytes; larger files are hashed only where their times differ from those noted

# What an error of the operating system means to a user: problem, expectation, remedy.
_MEANINGS: dict[int, tuple[str, str, str]] = {
    errno.ENOSPC: (
        "no space left on the disk while writing {path}",
        "enough free space for the file; nothing half-written was kept",
        "free some space, or choose another folder, and repeat the command",
    ),
    errno.EFBIG: (
        "{path} is larger than this system lets a file be",
        "a higher limit (ulimit -f), or a file system for large files",
        "raise the limit, or choose another folder, and repeat the command",
    ),
    errno.EACCES: (
        "permission denied: {path}",
        "a file or folder that this account may use",
        "change its rights or owner, or choose another folder",
    ),
    errno.EROFS: (
        "{path} lies on a read-only file system",
        "a folder that can be written to",
        "choose another one: root=<folder>, or MRL_DATA for prepared data",
    ),
    errno.ENOENT: ("{path} does not exist", "a file or folder that is there", "check the path"),
    errno.ENOTDIR: ("{path}: a file stands where a folder should be", "a folder", "move the file away"),
    errno.EISDIR: ("{path}: a folder stands where a file should be", "a file", "move the folder away"),
    errno.ENAMETOOLONG: (
        "{path}: the name is too long",
        "names of at most 255 bytes",
        "choose a shorter one",
    ),
    errno.ELOOP: ("{path}: links that lead in a circle", "links that end at a file", "remove the links"),
    errno.EPIPE: (
        "what the command prints can go no further: the program that read it has ended",
        "one that reads all of it, or a file",
        "repeat the command with > <file>, or without the pipe",
    ),
    errno.EMFILE: (
        "{path} cannot be opened: this process may not have more files open",
        "a higher limit, such as 1024",
        "raise it (ulimit -n 1024) and repeat the command",
    ),
    errno.EIO: (
        "{path} cannot be read or written: the disk reports an error",
        "a sound disk",
        "check the disk",
    ),
}
_MEANINGS[errno.EDQUOT] = _MEANINGS[errno.ENOSPC]
_MEANINGS[errno.EPERM] = _MEANINGS[errno.EACCES]
_MEANINGS[errno.EEXIST] = _MEANINGS[errno.ENOTDIR]


def os_error(error: OSError, path: Path | str | None = None) -> UserError:
    """Return what an error of the operating system means, as one message that names the path."""
    where = str(path or error.filename or "a file, or standard output")
    if error.errno == errno.ENOENT and os.path.islink(where):
        return UserError(
            f"{where} is a link to {os.readlink(where)}, which is not there",
            expected="a link to what is there, such as on a disk that is mounted",
            remedy="bring back what it leads to, or remove the link",
        )
    problem, expected, remedy = _MEANINGS.get(
        error.errno or 0,
        (f"{{path}}: {error.strerror or error}", "", "check the path and repeat the command"),
    )
    return UserError(problem.format(path=where), expected=expected, remedy=remedy)


@contextmanager
def explain_os_errors(path: Path | str) -> Iterator[None]:
    """Raise as a UserError that names `path` what the operating system refuses inside the block."""
    try:
        yield
    except OSError as error:
        raise os_error(error, path) from error


@contextmanager
def reading(path: Path, expected: str, remedy: str, problem: str = "is damaged") -> Iterator[None]:
    """Raise as one UserError what a damaged or forged file makes its readers raise, which is nearly anything.

    Args:
        path: The file.
        expected: What it should be.
        remedy: How to mend it.
        problem: What the message says of it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) and str(path) in error.problem:
            raise
        if isinstance(error, OSError) and error.errno:
            raise os_error(error, path) from error
        raise UserError(
            f"{path} {problem}: {shown(said(error), 400)}", expected=expected, remedy=remedy
        ) from error


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block ends well.

    On an error the temporary file is removed and `target` stays as it was. The new file has the rights that
    the user's umask gives.

    Raises:
        UserError: For what the operating system refuses, such as a full disk.
    """
    # A name of at most 255 bytes must stay one with the additions.
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        rights = temporary.stat().st_mode & 0o777
        yield temporary
        if temporary.stat().st_mode & 0o777 != rights:  # a library has put a file of its own there
            temporary.chmod(rights)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise os_error(error, target) from error
    finally:
        remove_quietly(temporary)


def hidden_folder(target: Path, end: str = "part") -> Path:
    """Return where a folder is written until it is whole ("part"), or lies while it is replaced ("old")."""
    return target.with_name(f".{target.name[:200]}.{end}")


def replace_folder(target: Path, new: Path) -> None:
    """Put a folder in place of `target`, which goes if it is there.

    Raises:
        UserError: For what the operating system refuses.
    """
    old = hidden_folder(target, "old")
    with explain_os_errors(target):
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` that replaces it when the block ends well; one writer at a time.

    What a killed writer has left there goes.

    Raises:
        UserError: For what the operating system refuses, such as a full disk.
    """
    new = hidden_folder(target)
    with explain_os_errors(target):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield new
            replace_folder(target, new)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def remove_quietly(path: Path) -> None:
    """Delete a file if it is there and this account may."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what writers of `name` that were killed have left in `folder`; only under the writers' lock."""
    for leftover in folder.glob(f".{name}.*.part"):
        remove_quietly(leftover)


def require_writable(folder: Path) -> None:
    """Make a folder unless it is there.

    Raises:
        UserError: If that is not possible, or it is read-only.
    """
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES, "")


def require_space(folder: Path, needed: int, remedy: str = "free some space") -> None:
    """Raise UserError when the disk under `folder` has less than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free", remedy=remedy
        )


def allocate(path: Path, shape: tuple[int, ...], dtype: Any) -> "np.memmap[Any, Any]":
    """Return a new .npy file of this shape to write into, with its bytes taken from the disk at once.

    A hole in the file that cannot be filled later, on a full disk, would kill the process.

    Raises:
        UserError: If there is not enough space for it.
    """
    with explain_os_errors(path):
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def write_json(target: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON with a checksum of its content, atomically."""
    value = {**value, DIGEST: _digest(value)}
    with atomic_path(target) as path:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_object(
    path: Path,
    remedy: str = "delete it and repeat the command that wrote it",
    *,
    version: int | None = None,
) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote.

    Files older than checksums are read as they are.

    Raises:
        UserError: If it is missing, no JSON object, has changed since it was written, or is of another
            `version`.
    """
    require_regular(path, remedy)
    with reading(path, "a JSON file", remedy):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is damaged: it holds a {type(value).__name__}", expected="a JSON object", remedy=remedy
        )
    if (noted := value.pop(DIGEST, None)) and noted != _digest(value):
        raise UserError(f"{path} has changed since it was written", remedy=remedy)
    if version is not None and value.get("version") != version:
        raise UserError(
            f"{path} is of version {value.get('version')}", expected=f"version {version}", remedy=remedy
        )
    return value


def _digest(value: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # as it comes back from the file
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def fingerprint(path: Path) -> dict[str, Any]:
    """Return what `is_unchanged` recognizes a file by: size in bytes, times of change in ns, SHA-256."""
    checksum, status = sha256(path), path.stat()
    return {
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "sha256": checksum,
    }


_verified: set[tuple[str, int, int, int, str]] = set()  # in this process


def is_unchanged(path: Path, noted: Mapping[str, Any]) -> bool:
    """Return whether a file is the one of which `fingerprint` was noted; each is hashed once per process.

    Files of more than `LARGE` bytes are hashed only where their times of change are not those noted. What was
    not noted, as of files older than checksums, is not compared.
    """
    try:
        status = path.stat()
    except OSError:
        return False
    if not path.is_file() or status.st_size != noted.get("bytes", status.st_size):
        return False
    times, checksum = (status.st_mtime_ns, status.st_ctime_ns), noted.get("sha256")
    key = (str(path.resolve()), status.st_size, *times, str(checksum))
    if key not in _verified:
        trusted = status.st_size > LARGE and times == (noted.get("mtime_ns"), noted.get("ctime_ns"))
        if checksum and not trusted and sha256(path) != checksum:
            return False
        _verified.add(key)
    return True


def require_unchanged(path: Path, noted: Mapping[str, Any], remedy: str) -> None:
    """Raise UserError when a file is missing or not the one of which `fingerprint` was noted."""
    if not is_unchanged(path, noted):
        fate = "has changed since it was written" if path.exists() else "is missing"
        raise UserError(f"{path} {fate}", remedy=remedy)


def require_regular(path: Path, remedy: str = "move it away") -> None:
    """Raise UserError unless a path leads to a regular file; reading a pipe would wait without end."""
    with explain_os_errors(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UserError(f"{path} is {kind}", expected="a regular file", remedy=remedy)


_MARKS = (  # UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a user's file: UTF-8, or what its byte-order mark says; the mark is left out.

    Line ends stay as they are.

    Args:
        errors: What becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        UserError: For bytes that cannot be decoded, with the file and the line of the first.
    """
    require_regular(path)
    with explain_os_errors(path):
        raw = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding, errors if encoding.startswith("utf-8") else "strict")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} is not {encoding.removesuffix('-sig').upper()} text: line {line} ({error.reason})",
            expected="text in UTF-8",
            remedy=f"convert it: iconv -f <its encoding> -t UTF-8 {path.name}",
        ) from error


def read_mapping(path: Path, known: Container[str] = ()) -> dict[str, str]:
    """Read names to names from a JSON object or a CSV file of two columns.

    The CSV file's first line is its heading, unless it begins with one of the `known` names.

    Raises:
        UserError: If the file is missing or is neither, and for names that are empty or mapped to two things;
            all lines that are wrong are counted, the first five named.
    """
    if not path.exists():
        raise UserError(f"the mapping {path} does not exist", expected=MAPPING)
    text = read_text(path)
    try:
        pairs = _json_pairs(text) if path.suffix.lower() == ".json" else _csv_pairs(text, known)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} is no mapping: {error}", expected=MAPPING) from error
    mapping: dict[str, str] = {}
    twice = sorted({name for name, value in pairs if mapping.setdefault(name, value) != value})
    if twice or "" in mapping or "" in mapping.values():
        problem = f"{len(twice)} names are mapped to different ones: {', '.join(twice[:5])}"
        raise UserError(
            f"{path} is no mapping: {problem if twice else 'it has empty names'}",
            expected="one name, not empty, for each",
        )
    return mapping


def _csv_pairs(text: str, known: Container[str]) -> list[tuple[str, str]]:
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    rows = [(reader.line_num, [field.strip() for field in row]) for row in reader]
    rows = [(line, row[:2] + [field for field in row[2:] if field]) for line, row in rows if any(row)]
    if odd := [line for line, row in rows if len(row) != 2]:
        more = ", ..." if len(odd) > 5 else ""
        raise ValueError(
            f"{len(odd)} lines have not two columns: line {', '.join(map(str, odd[:5]))}{more} "
            "(a name with a comma belongs in quotation marks)"
        )
    if not rows:
        raise ValueError("it is empty")
    pairs = [(row[0], row[1]) for _, row in rows]
    return pairs if pairs[0][0] in known else pairs[1:]


def _json_pairs(text: str) -> list[tuple[str, str]]:
    pairs = json.loads(text, object_pairs_hook=tuple)
    if not isinstance(pairs, tuple):
        raise ValueError(f"it holds a {type(pairs).__name__}")
    for name, value in pairs:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError(f"{name} has {value!r}, not one name")
    return [(name.strip(), str(value).strip()) for name, value in pairs]


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content.

    Raises:
        UserError: If it cannot be read.
    """
    require_regular(path)
    with explain_os_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
