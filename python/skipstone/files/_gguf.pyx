# cython: language_level=3
"""The header of a GGUF file: keys, values and the list of tensors.

Everything here comes from a stranger. A length or a count is believed only after it was compared, by subtraction, with
the bytes that are left; nothing is allocated from a number alone. The header is read into memory, not mapped, so a
file that shrinks meanwhile gives an error and no signal.
"""
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from skipstone.errors import FileError
from skipstone.files.messages import shown

# Far above the largest known header (a vocabulary of 262144 tokens with its merges is 20 MB, 1.3 million array entries),
# and low enough that the Python objects made from a header stay in proportion to the file.
HEADER_LIMIT = 256 << 20
STRING_LIMIT = 64 << 20
KEY_LIMIT = 65535
ENTRY_LIMIT = 4 << 20
KEY_COUNT_LIMIT = 10_000
TENSOR_LIMIT = 32_768         # ten times the largest known models'
TENSOR_NAME_LIMIT = 1024

cdef enum:
    FIRST_READ = 1 << 20

cdef enum:
    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12
    TYPES = 13

cdef int[13] SIZE = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8]     # least bytes of a value of each type


cdef words(label, int64_t index):
    return label if index < 0 else f"{label}[{index}]"


cdef class Header:
    """A cursor over the start of a file. `label` and `index` say what is being read, for messages only."""
    cdef object read                # read(offset, size) -> bytes, fewer than asked only where the file ends
    cdef str file
    cdef bytes held                 # the first `loaded` bytes of the file
    cdef const uint8_t* start
    cdef uint64_t at, loaded, size
    cdef uint64_t entries           # of all arrays so far

    def __init__(self, read, size, file):
        self.read, self.size, self.file = read, size, file
        self.at = self.loaded = self.entries = 0

    cdef int need(self, uint64_t count, label, int64_t index=-1) except -1:
        """Makes sure that `count` more bytes are there."""
        if count <= self.loaded - self.at:
            return 0
        if count > self.size - self.at:
            raise FileError(f"{self.file}: {words(label, index)} needs {count} bytes at offset {self.at}, but the file ends at "
                            f"{self.size}; expected a complete file, the download may have been cut off")
        if count > HEADER_LIMIT or self.at > HEADER_LIMIT - count:
            raise FileError(f"{self.file}: the header reaches beyond {HEADER_LIMIT} bytes at {words(label, index)}; "
                            "expected it to end before")
        cdef uint64_t wanted = max(self.at + count, 2 * self.loaded, <uint64_t> FIRST_READ)
        wanted = min(wanted, self.size, <uint64_t> HEADER_LIMIT)
        self.held = self.read(0, wanted)
        self.start = self.held
        self.loaded = len(self.held)
        if self.loaded < wanted:
            raise FileError(f"{self.file}: the file had {self.size} bytes when it was opened and now ends at {self.loaded}; "
                            "expected that nobody changes it while it is read")
        return 0

    cdef uint32_t u32(self, label) except? 0xffffffff:
        cdef uint32_t value
        self.need(4, label)
        memcpy(&value, self.start + self.at, 4)
        self.at += 4
        return value

    cdef uint64_t u64(self, label, int64_t index=-1) except? 0xffffffffffffffff:
        cdef uint64_t value
        self.need(8, label, index)
        memcpy(&value, self.start + self.at, 8)
        self.at += 8
        return value

    cdef uint64_t count(self, uint64_t smallest, uint64_t limit, label) except? 0xffffffffffffffff:
        """A count is believed only if the rest of the file can hold that many entries of `smallest` bytes."""
        cdef uint64_t n = self.u64(label)
        if n > (self.size - self.at) // smallest:
            raise FileError(f"{self.file}: {label} claims {n} entries of at least {smallest} bytes, but only "
                            f"{self.size - self.at} bytes follow; expected a count that fits")
        if n > limit:
            raise FileError(f"{self.file}: {label} claims {n} entries; expected at most {limit}")
        return n

    cdef str string(self, uint64_t limit, bint strict, label, int64_t index=-1):
        """A length and that many bytes of UTF-8. Where it is not strict, wrong bytes become U+FFFD."""
        cdef uint64_t length = self.u64(label, index)
        if length > limit and length <= self.size - self.at:
            raise FileError(f"{self.file}: {words(label, index)} has {length} bytes; expected at most {limit}")
        self.need(length, label, index)
        cdef const char* text = <const char*> self.start + self.at
        cdef const char* errors = NULL
        if not strict:
            errors = "replace"
        self.at += length
        try:
            return PyUnicode_DecodeUTF8(text, length, errors)
        except UnicodeDecodeError as error:
            raise FileError(f"{self.file}: {words(label, index)} is not UTF-8 (byte {error.start} of {length}: {error.reason}); "
                            "expected UTF-8 text") from None

    cdef object scalar(self, uint32_t kind, label, int64_t index=-1):
        cdef int8_t i8
        cdef uint16_t u16
        cdef int16_t i16
        cdef uint32_t u32
        cdef int32_t i32
        cdef uint64_t u64
        cdef int64_t i64
        cdef float f32
        cdef double f64
        self.need(SIZE[kind], label, index)
        cdef const uint8_t* at = self.start + self.at
        self.at += SIZE[kind]
        if kind == UINT8:
            return at[0]
        if kind == INT8:
            memcpy(&i8, at, 1)
            return i8
        if kind == UINT16:
            memcpy(&u16, at, 2)
            return u16
        if kind == INT16:
            memcpy(&i16, at, 2)
            return i16
        if kind == UINT32:
            memcpy(&u32, at, 4)
            return u32
        if kind == INT32:
            memcpy(&i32, at, 4)
            return i32
        if kind == UINT64:
            memcpy(&u64, at, 8)
            return u64
        if kind == INT64:
            memcpy(&i64, at, 8)
            return i64
        if kind == FLOAT32:
            memcpy(&f32, at, 4)
            return f32
        if kind == FLOAT64:
            memcpy(&f64, at, 8)
            return f64
        if at[0] > 1:
            raise FileError(f"{self.file}: {words(label, index)} is a bool with the value {at[0]}; expected 0 or 1")
        return at[0] == 1

    cdef list array(self, label):
        cdef uint32_t kind = self.u32(label)
        if kind == ARRAY:
            raise FileError(f"{self.file}: {label} is an array of arrays; expected an array of numbers, bools or strings")
        if kind >= TYPES:
            raise FileError(f"{self.file}: {label} is an array of elements of type {kind}; expected a type from 0 to 12")
        cdef uint64_t n = self.count(SIZE[kind], ENTRY_LIMIT - self.entries, label)
        cdef uint64_t i
        self.entries += n
        if kind == STRING:
            return [self.string(STRING_LIMIT, True, label, i) for i in range(n)]
        return [self.scalar(kind, label, i) for i in range(n)]

    cdef object value(self, label):
        cdef uint32_t kind = self.u32(label)
        if kind >= TYPES:
            raise FileError(f"{self.file}: {label} has a value of type {kind}; expected a type from 0 to 12")
        if kind == STRING:
            # Descriptions are cut in the middle of a character by some tools, which does no harm.
            return self.string(STRING_LIMIT, False, label)
        if kind == ARRAY:
            return self.array(label)
        return self.scalar(kind, label)


def parse(read, size, file):
    """Reads a GGUF header.

    read: called with (offset, size), returns bytes. size: bytes of the file. file: its name, for messages.
    Returns (metadata, tensors, end): metadata maps keys to an int, float, bool, str or a list of one of those; tensors is
    a list of (name, dimensions, type id, offset), dimensions as in the file, the contiguous one first; end is the number
    of bytes of the header. Raises FileError. Type ids, dimensions and offsets are not judged here.
    """
    cdef Header header = Header(read, size, file)
    cdef uint64_t keys, tensors, i
    cdef uint32_t version, dimensions, kind, j
    if size < 24:
        raise FileError(f"{file}: the file has {size} bytes; expected a GGUF file, whose header alone has 24")
    header.need(24, "the header")
    if header.held[:4] != b"GGUF":
        raise FileError(f"{file}: the file starts with {header.held[:4]!r}; expected b'GGUF'")
    header.at = 4
    version = header.u32("the version")
    if version != 2 and version != 3:
        if version & 0xffff == 0 and version != 0:
            raise FileError(f"{file}: the file is a big-endian GGUF; expected a little-endian one")
        raise FileError(f"{file}: the file has GGUF version {version}; expected version 2 or 3")
    # The least entries: a tensor with a name of 1 byte and 1 dimension; a key of 1 byte with a value of 1 byte.
    tensors = header.count(8 + 1 + 4 + 8 + 4 + 8, TENSOR_LIMIT, "the number of tensors")
    keys = header.count(8 + 1 + 4 + 1, KEY_COUNT_LIMIT, "the number of keys")

    metadata = {}
    for i in range(keys):
        key = header.string(KEY_LIMIT, True, "the name of key number", i)
        if not key:
            raise FileError(f"{file}: key number {i} has no name; expected at least one letter")
        label = f"key {shown(key)}"
        if key in metadata:
            raise FileError(f"{file}: {label} is there twice; expected each key once")
        metadata[key] = header.value(label)

    infos, names = [], set()
    for i in range(tensors):
        name = header.string(TENSOR_NAME_LIMIT, True, "the name of tensor number", i)
        if not name:
            raise FileError(f"{file}: tensor number {i} has no name; expected at least one letter")
        label = f"tensor {shown(name)}"
        if name in names:
            raise FileError(f"{file}: {label} is there twice; expected each tensor once")
        names.add(name)
        dimensions = header.u32(label)
        if dimensions < 1 or dimensions > 4:
            raise FileError(f"{file}: {label} has {dimensions} dimensions; expected 1 to 4")
        shape = tuple([header.u64(label) for j in range(dimensions)])
        kind = header.u32(label)
        infos.append((name, shape, kind, header.u64(label)))
    return metadata, infos, header.at
