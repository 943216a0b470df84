"""The GPU kernels' own source, compiled for the CPU with a fiber a GPU thread: against float64, row by row, form by form, and the packing bit by bit.

No card and no GPU compiler is needed; the int8 matrix instruction is replaced by a function with the same fragments. NVIDIA's form of the kernels, and
AMD's with waves of 32 and of 64; the seed of a run orders blocks and threads anew.
"""
from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "csrc" / "backends" / "gpu"
TYPES = {"Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "Q5_K": 13, "Q4_0": 2, "Q5_0": 6}


WAVES = {"nvidia": [], "amd32": ["-DSK_EMULATED_WAVE=32"], "amd64": ["-DSK_EMULATED_WAVE=64"]}


@pytest.fixture(scope="module", params=WAVES)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("gpu"), request.param)


def build(folder: Path, wave: str) -> ctypes.CDLL:
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C++ compiler (c++, g++, clang++ or $CXX) is here to build the emulated kernels with")
    out = folder / f"{wave}.so"
    sources = [str(GPU / "emulated.cpp"), str(GPU / "layout.cpp"), str(Path(__file__).parent / "scalar_matmul.cpp")]
    command = [compiler, "-std=c++20", "-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", *WAVES[wave], "-o", str(out), *sources]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "ucontext" in built.stderr:
        pytest.skip(f"{compiler} has no ucontext.h, which the emulation switches fibers with")
    assert built.returncode == 0, built.stderr
    lib = ctypes.CDLL(str(out))
    lib.emulated_chunk_bytes.restype = ctypes.c_int64
    return lib


def pointer(a: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)


def file_blocks(rng: np.random.Generator, name: str, rows: int, columns: int) -> np.ndarray:
    """A matrix of random bits in the file's layout whose scales are finite and moderate: (rows, bytes of a row)."""
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(name, (0,)):
        blocks[:, at:at + 2] = rng.uniform(-0.05, 0.05, len(blocks)).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def pack(lib: ctypes.CDLL, name: str, data: np.ndarray, columns: int) -> np.ndarray:
    """(units, chunks, 2 tiles, bytes of a chunk)"""
    units, chunks = -(-len(data) // 32), -(-columns // 256)
    out = np.empty((units, chunks, 2, lib.emulated_chunk_bytes(TYPES[name])), np.uint8)
    lib.emulated_pack(TYPES[name], pointer(data), ctypes.c_int64(len(data)), ctypes.c_int64(columns), pointer(out))
    return out


class Activations:
    """Up to 16 rows, quantized by the kernel. Memory that no row fills holds NaN, so that a kernel which lets it through is caught."""

    def __init__(self, lib: ctypes.CDLL, x: np.ndarray, seed: int = 1) -> None:
        self.x = np.ascontiguousarray(x, np.float32)
        self.rows, self.columns = self.x.shape
        self.pairs = 4 * -(-self.columns // 256)
        self.data = np.full((self.pairs, 2, 640), 0xFF, np.uint8)      # [pair][group of rows][q 512, scale 64, sum 64]
        lib.emulated_quantize(pointer(self.x), self.rows, self.columns, pointer(self.data), seed)

    def plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q (rows, blocks, 32), scale and sum (rows, blocks)."""
        lanes = self.data[..., :512].copy().view(np.int8).reshape(self.pairs, 2, 8, 4, 2, 2, 4)      # [pair][group][g][t][block][half][byte]
        q = lanes.transpose(1, 2, 0, 4, 5, 3, 6).reshape(16, 2 * self.pairs, 32)[:self.rows]
        floats = self.data[..., 512:].copy().view(np.float32).reshape(self.pairs, 2, 2, 4, 2, 2)      # [pair][group][scale, sum][t][block][row]
        scale, total = floats.transpose(2, 1, 3, 5, 0, 4).reshape(2, 16, 2 * self.pairs)[:, :self.rows]
        return q, scale, total


def matmul(lib: ctypes.CDLL, name: str, packed: np.ndarray, outputs: int, x: Activations, columns: int = 0, team: int = 4, blocks: int = 2, depth: int = 2,
           seed: int = 1) -> np.ndarray:
    columns = columns or (8 if x.rows <= 8 else 16)
    y = np.full((x.rows, outputs), np.nan, np.float32)
    stride = ctypes.c_int64(outputs)
    lib.emulated_matmul(TYPES[name], pointer(packed), pointer(x.data), pointer(y), stride, outputs, x.columns, x.rows, columns, team, blocks, depth, seed)
    return y


def weights(name: str, data: np.ndarray) -> np.ndarray:
    return np.asarray(gguf.dequantize(data, gguf.GGMLQuantizationType[name]), np.float64)


def parts(name: str, data: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Magnitudes of what is added for a weight: with a minimum, the quantized part and the minimum apart, for they may cancel."""
    if name not in ("Q4_K", "Q5_K"):
        return np.asarray(np.abs(w))
    blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1])
    low = np.abs(blocks[:, 2:4].copy().view(np.float16).astype(np.float64)) * 63      # at most
    return np.asarray(np.abs(w) + 2 * np.repeat(low, 256, 1).reshape(w.shape))


@pytest.mark.parametrize("columns", [256, 1056])
def test_quantization_is_the_cpus(library: ctypes.CDLL, columns: int) -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((11, columns)) * 10.0 ** rng.integers(-3, 4, (11, 1))).astype(np.float32)
    x[1] = 0
    x[2, :32] = 1e-38                     # too small for a scale's reciprocal
    x[3] = np.where(rng.random(columns) < 0.5, 3.0, -3.0)
    x[4, :64] = np.arange(64) - 31.5      # ties
    q, scale, total = Activations(library, x).plain()
    blocks = x.reshape(11, -1, 32)
    largest = np.abs(blocks).max(-1)
    counts = largest > np.float32(1e-30)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(counts, np.float32(127) / largest, np.float32(0))
    want = np.rint(blocks * inverse[..., None])
    n = columns // 32
    assert (q[:, :n] == want).all()
    assert (q[:, n:] == 0).all() and (scale[:, n:] == 0).all() and (total[:, n:] == 0).all()
    want_scale = np.where(counts, largest / np.float32(127), np.float32(0))
    assert scale[:, :n].tobytes() == want_scale.tobytes()
    assert total[:, :n].tobytes() == (want_scale * want.sum(-1).astype(np.float32)).tobytes()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(("outputs", "columns", "rows"), [(1, 256, 1), (16, 512, 3), (37, 1280, 8), (50, 2304, 9), (23, 768, 16), (16, 4352, 2)])
def test_matches_float64(library: ctypes.CDLL, name: str, outputs: int, columns: int, rows: int) -> None:
    check(library, name, outputs, columns, rows)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0"])
@pytest.mark.parametrize(("outputs", "columns", "rows"), [(5, 32, 1), (17, 96, 12), (33, 1120, 8)])
def test_matches_float64_where_columns_do_not_fill_chunks(library: ctypes.CDLL, name: str, outputs: int, columns: int, rows: int) -> None:
    check(library, name, outputs, columns, rows)


def check(library: ctypes.CDLL, name: str, outputs: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(outputs + columns)
    data = file_blocks(rng, name, outputs, columns)
    x = Activations(library, rng.standard_normal((rows, columns)).astype(np.float32))
    got = matmul(library, name, pack(library, name, data, columns), outputs, x)
    w = weights(name, data)
    q, scale, _ = x.plain()
    seen = (q.astype(np.float64) * scale[..., None]).reshape(rows, -1)[:, :columns]
    # A result is one chain: at most two fma a block (a half or a minimum each), one a chunk, then 7 sums of slices; a term is rounded at most twice.
    # A step's error is 2^-24 of a partial sum, which the terms' magnitudes bound.
    steps = 2 * (columns // 32 + 1) + columns // 256 + 1 + 7 + 2
    bound = np.abs(seen) @ parts(name, data, w).T * steps * 2.0**-24 * 1.01 + 1e-30
    error = np.abs(got - seen @ w.T)
    assert (error <= bound).all(), (name, np.argwhere(~(error <= bound))[:3], np.nanmax(error / bound))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(("outputs", "columns", "rows"), [(37, 1280, 3), (16, 4352, 9), (5, 2304, 16)])
def test_has_the_bits_of_the_scalar_reference(library: ctypes.CDLL, name: str, outputs: int, columns: int, rows: int) -> None:
    """scalar_matmul.cpp adds what the file's blocks say, one after the other; every form and order of threads must give that, bit for bit."""
    rng = np.random.default_rng(outputs)
    data = file_blocks(rng, name, outputs, columns)
    x = Activations(library, rng.standard_normal((rows, columns)).astype(np.float32))
    q, scale, total = (np.ascontiguousarray(v[:, :columns // 32]) for v in x.plain())
    want = np.empty((rows, outputs), np.float32)
    library.scalar_matmul(TYPES[name], pointer(data), ctypes.c_int64(data.shape[1]), outputs, columns // 32, rows, pointer(q), pointer(scale), pointer(total), pointer(want))
    packed = pack(library, name, data, columns)
    for seed in (1, 2, 3):
        assert matmul(library, name, packed, outputs, x, seed=seed).tobytes() == want.tobytes(), seed


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("columns", [512, 4096 + 256])
def test_rows_do_not_see_each_other(library: ctypes.CDLL, name: str, columns: int) -> None:
    rng = np.random.default_rng(7)
    outputs = 21
    packed = pack(library, name, file_blocks(rng, name, outputs, columns), columns)
    x = rng.standard_normal((16, columns)).astype(np.float32)
    alone = np.concatenate([matmul(library, name, packed, outputs, Activations(library, row[None])) for row in x])
    assert np.isfinite(alone).all()
    groups = [(0, 2), (3, 5), (8, 8), (0, 9), (0, 16)] if columns > 4096 else [(16 - count, count) for count in range(1, 17)]
    for first, count in groups:
        together = matmul(library, name, packed, outputs, Activations(library, x[first:first + count]))
        assert (together == alone[first:first + count]).all(), (first, count)


@pytest.mark.parametrize("name", TYPES)
def test_form_grid_and_order_change_no_bit(library: ctypes.CDLL, name: str) -> None:
    rng = np.random.default_rng(8)
    outputs, columns = 75, 1536
    packed = pack(library, name, file_blocks(rng, name, outputs, columns), columns)
    x = Activations(library, rng.standard_normal((6, columns)).astype(np.float32))
    first = matmul(library, name, packed, outputs, x)
    # Columns, team, blocks, depth, seed; blocks beyond the 3 units have nothing to do.
    for form in ((16, 4, 2, 1, 1), (8, 16, 1, 2, 2), (8, 4, 3, 1, 3), (16, 16, 5, 2, 4), (8, 16, 9, 1, 5), (32, 1, 1, 2, 6), (64, 0, 1, 1, 7), (128, 0, 2, 1, 8)):
        assert matmul(library, name, packed, outputs, x, *form).tobytes() == first.tobytes(), form


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x80, 0x7F])
def test_extremes_are_exact(library: ctypes.CDLL, name: str, fill: int) -> None:
    """All bits set or clear against activations at the ends of their range: sums at their largest, where a start of 1.5 * 2^23 must still suffice."""
    rng = np.random.default_rng(9)
    data = np.full_like(file_blocks(rng, name, 16, 256), fill)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(name, (0,)):
        data.reshape(-1, size)[:, at:at + 2] = np.array([0.5], np.float16).view(np.uint8)
    x = np.full((2, 256), 127.0, np.float32)      # scale 1
    x[1, ::2] = -127.0
    got = matmul(library, name, pack(library, name, data, 256), 16, Activations(library, x))
    want = x.astype(np.float64) @ weights(name, data).T
    exact = np.abs(want) < 2**22                  # halves below that are float32 numbers, and so are all partial sums
    assert (got == want)[exact].all()
    assert (np.abs(got - want) <= np.abs(want) * 2.0**-20).all()


@pytest.mark.parametrize("name", TYPES)
def test_packing_loses_nothing(library: ctypes.CDLL, name: str) -> None:
    """Reads chunks back by a reader of its own; every bit of the file's blocks must be found, scales that are no numbers included."""
    rng = np.random.default_rng(10)
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    rows, columns = 32, 768
    data = rng.integers(0, 256, (rows, columns // values * size), dtype=np.uint8)
    chunks = pack(library, name, data, columns)
    assert chunks.size == data.size                              # full tiles and chunks: no byte more than the file has
    tiles = [chunks[unit, :, of] for unit in range(chunks.shape[0]) for of in range(2)]
    back = np.concatenate([np.concatenate([unpacked(name, chunk) for chunk in tile], 1) for tile in tiles])
    assert (back == data).all()


def nibbles(piece: np.ndarray) -> np.ndarray:
    """The low four bits of (16 rows, 8 blocks, 32 positions) from four pieces."""
    lanes = piece.reshape(4, 8, 4, 2, 2, 4)                      # [pair][g][t][half of the block][row g or g + 8][byte]
    both = np.stack([lanes & 15, lanes >> 4], 1)                 # [pair][block of the pair][g][t][half][row][byte]
    return both.transpose(5, 2, 0, 1, 4, 3, 6).reshape(16, 8, 32)


def fifth_bits(piece: np.ndarray) -> np.ndarray:
    lanes = piece.reshape(8, 4, 4, 4)                            # [g][t][pair][byte]
    bit = np.stack([lanes >> i & 1 for i in range(8)]).reshape(2, 2, 2, 8, 4, 4, 4)      # [block of the pair][half][row][g][t][pair][byte]
    return bit.transpose(2, 3, 5, 0, 1, 4, 6).reshape(16, 8, 32)


def row_scales(piece: np.ndarray) -> np.ndarray:
    return piece.reshape(2, 8, 4, 2, 2).transpose(3, 1, 0, 2, 4).reshape(16, 8, 2)       # [four blocks][g][block][row g or g + 8][byte]


def unpacked(name: str, chunk: np.ndarray) -> np.ndarray:
    if name == "Q8_0":
        q = chunk[:4096].reshape(8, 8, 4, 2, 2, 4).transpose(4, 1, 0, 3, 2, 5).reshape(16, 8, 32)
        return np.concatenate([row_scales(chunk[4096:]), q], 2).reshape(16, -1)
    low = nibbles(chunk[:2048])
    if name == "Q4_0":
        return np.concatenate([row_scales(chunk[2048:]), low[..., :16] | low[..., 16:] << 4], 2).reshape(16, -1)
    if name == "Q5_0":
        bits = np.packbits(fifth_bits(chunk[2048:2560]), axis=2, bitorder="little")
        return np.concatenate([row_scales(chunk[2560:]), bits, low[..., :16] | low[..., 16:] << 4], 2).reshape(16, -1)
    if name in ("Q4_K", "Q5_K"):
        packed = (low[:, 0::2] | low[:, 1::2] << 4).reshape(16, 128)
        head = chunk[-256:].reshape(16, 16)
        if name == "Q4_K":
            return np.concatenate([head, packed], 1)
        bits = np.packbits(fifth_bits(chunk[2048:2560]), axis=1, bitorder="little").reshape(16, 32)
        return np.concatenate([head, bits, packed], 1)
    pairs = chunk[2048:3072].reshape(2, 8, 4, 4, 4)              # [four blocks][g][t][block][byte]
    pairs = np.stack([pairs >> 2 * i & 3 for i in range(4)]).reshape(2, 2, 2, 8, 4, 4, 4) ^ 2      # [half][row][four blocks][g][t][block][byte]
    pairs = pairs.transpose(1, 3, 2, 5, 0, 4, 6).reshape(16, 2, 4, 32)
    low = low.reshape(16, 2, 4, 32)
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], 2).reshape(16, 128)
    qh = (pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6).reshape(16, 64)
    scales = chunk[3072:3328].reshape(16, 16) ^ 0x80
    d = chunk[3328:].reshape(8, 2, 2).transpose(1, 0, 2).reshape(16, 2)
    return np.concatenate([ql, qh, scales, d], 1)
