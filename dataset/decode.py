"""Decodes image files: one at a time, or a list of files into a cache file that later runs map into memory."""
import concurrent.futures
import contextlib
import os
import struct
import sys

import numpy as np
import torch
from PIL import Image

from errors import UsageError
from files import lock, writing

# Pillow's exceptions for damaged files. Pillow 13 raised the first four for 50,000 files of seven formats that were
# truncated or had bytes changed; its source also raises the last two.
_DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError, struct.error)
_THREADS = min(16, os.cpu_count() or 1)  # Pillow decodes without the GIL; the code around it needs the GIL
_CHUNK_BYTES = 32e6  # decoded at a time, so that decoding a large data set needs little memory


def decode(path, size):
    """The image file as a PIL RGB image of size x size pixels.

    Resizes the shorter side to `size` (bilinear, antialiased), then crops the centre. Keeps the higher 8 of 16 bits.
    Raises UsageError with the path for a file that cannot be decoded.
    """
    with _named(path), Image.open(path) as file:
        image = _eight_bits(file).convert("RGB")
    width, height = image.size
    if width == height == size:
        return image
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _eight_bits(image):
    """The image; of a 16-bit grey image its higher 8 bits, because Pillow's `convert` makes all values above 255 white.

    16-bit colour images are unchanged: Pillow keeps the higher 8 bits when it reads the file. Raises ValueError for 32
    bits, integer or float, which only TIFF has, because nothing defines their white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits: save it with 8 or 16 per channel")
    return image


def dimensions(path):
    """(width, height) of an image file, from its header alone. Raises UsageError with the path."""
    with _named(path), Image.open(path) as file:
        return file.size


def decode_each(paths, size):
    """Yields the uint8 array (size, size, 3) of each file, in order, decoded in threads. Errors as decode."""
    per_chunk = max(1, int(_CHUNK_BYTES / (3 * size * size)))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), per_chunk):
            yield from pool.map(lambda path: np.asarray(decode(path, size)), paths[start:start + per_chunk])


def cached_array(cache_file, paths, size):
    """The decoded files as a uint8 tensor (N, size, size, 3), mapped from `cache_file`. Writes that file if needed.

    Decoding 50,000 JPEG files of 32x32 takes 7 to 10 s on 2 cores; mapping them takes 1 ms.
    The caller chooses a file name that depends on everything that determines the pixels. A file that is truncated, or
    is not such an array, is written again. The system loads pages on access and can drop them, so the data set is not
    copied. If the file cannot be written, the images are decoded into ordinary memory, and a note on standard error
    says so. Raises UsageError as decode.
    """
    shape = (len(paths), size, size, 3)
    array = _map(cache_file, shape)
    if array is None:
        try:
            os.makedirs(os.path.dirname(cache_file), exist_ok=True)
            # If several runs start at once, one decodes and the others wait.
            with lock(os.path.join(os.path.dirname(cache_file), ".lock")):
                array = _map(cache_file, shape)
                if array is None:
                    _write_array(cache_file, paths, shape)
                    array = np.load(cache_file, mmap_mode="c")
        except (OSError, NotImplementedError) as error:  # a read-only folder, a full disk, one without locks
            print(f"note: decoding {len(paths)} images into memory, as the cache {cache_file} cannot be written: "
                  f"{getattr(error, 'strerror', None) or error}", file=sys.stderr)
            array = np.empty(shape, np.uint8)
            for i, image in enumerate(decode_each(paths, size)):
                array[i] = image
    return torch.from_numpy(array)


def _write_array(cache_file, paths, shape):
    """Decodes the files into a .npy file of that shape. Raises OSError if it cannot be written."""
    with writing(cache_file) as file:
        print(f"decoding {len(paths)} images into {cache_file}", file=sys.stderr)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for image in decode_each(paths, shape[1]):
            file.write(image.tobytes())


def _map(cache_file, shape):
    """The .npy file mapped into memory, or None if it is not a complete uint8 array of that shape."""
    try:
        # "c": private writable pages, because torch warns about read-only arrays; nothing writes to them.
        array = np.load(cache_file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if isinstance(array, np.ndarray) and array.shape == shape and array.dtype == np.uint8 else None


@contextlib.contextmanager
def _named(path):
    """Converts Pillow's exceptions for a damaged file into a UsageError with its path."""
    try:
        yield
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"cannot read the image {path}: {reason}") from error
