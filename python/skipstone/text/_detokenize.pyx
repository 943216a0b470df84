# cython: language_level=3
"""Tokens to text, one at a time: characters are never split, and stop strings are found across the borders of pieces."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from skipstone.errors import ArgumentError

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8Stateful(const char* text, Py_ssize_t size, const char* errors, Py_ssize_t* consumed)


cdef bytes piece_of(list pieces, token):
    """The bytes of one token; none for an id beyond the vocabulary (a padded row of the model)."""
    cdef Py_ssize_t index
    try:
        index = token
    except (TypeError, OverflowError):
        raise ArgumentError(f"ids: found {token!r:.40}; expected token ids, which are integers from 0 on") from None
    if index < 0:
        raise ArgumentError(f"ids: found {index}; expected token ids, which are integers from 0 on")
    return <bytes> pieces[index] if index < len(pieces) else b""


def decode(list pieces, ids):
    """The text of a whole list of tokens. pieces: bytes of each token. Bytes that are no UTF-8 become U+FFFD."""
    return b"".join([piece_of(pieces, token) for token in ids]).decode("utf-8", "replace")


cdef class Detokenizer:
    """The text of a growing list of tokens.

    The results of all push() and the final finish() together equal decode() of the same tokens. A character whose bytes
    are spread over several tokens comes out with its last one; bytes that cannot become a character any more come out as
    U+FFFD at once.
    """
    cdef list pieces
    cdef bytes held             # 0 to 3 bytes: the start of a character

    def __init__(self, list pieces):
        self.pieces = pieces
        self.held = b""

    def push(self, token):
        """The text that became certain with this token; may be empty."""
        cdef bytes piece = piece_of(self.pieces, token)
        cdef Py_ssize_t consumed = 0
        if self.held:
            piece = self.held + piece
        text = PyUnicode_DecodeUTF8Stateful(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece), "replace", &consumed)
        self.held = piece[consumed:]
        return text

    def finish(self):
        """What is left at the end: U+FFFD for the start of a character that never ended, else nothing."""
        text = self.held.decode("utf-8", "replace")
        self.held = b""
        return text

    def copy(self):
        """An independent detokenizer in the same state."""
        cdef Detokenizer other = Detokenizer(self.pieces)
        other.held = self.held
        return other


cdef class StopStrings:
    """Finds the first stop string in text that arrives in pieces; where the borders lie makes no difference.

    The first is the one that ends first; of several that end at the same character, the longest. Text that may be the
    start of a stop string is held back until that is decided.
    """
    cdef list stops
    cdef list jumps             # for each stop string: length of the longest start that is also an end, of each prefix
    cdef list states            # for each stop string: how many of its characters the text ends with
    cdef str held
    cdef bint stopped

    def __init__(self, stops):
        """stops: texts, none of them empty. Raises ArgumentError."""
        if isinstance(stops, str):
            stops = [stops]
        self.stops = list(stops)
        for stop in self.stops:
            if not isinstance(stop, str) or not stop:
                raise ArgumentError(f"stop: found {stop!r:.40}; expected texts of at least one character")
        self.jumps = [jumps_of(stop) for stop in self.stops]
        self.states = [0] * len(self.stops)
        self.held = ""
        self.stopped = False

    def push(self, str text):
        """Returns (text that is certain to be before any stop string, whether a stop string was found).

        After one was found nothing more comes out.
        """
        cdef Py_ssize_t i, s, state, longest = 0
        cdef str stop
        cdef list jump
        if self.stopped:
            return "", True
        if not self.stops:
            return text, False
        for i in range(len(text)):
            for s in range(len(self.stops)):
                stop = <str> self.stops[s]
                jump = <list> self.jumps[s]
                state = self.states[s]
                while state > 0 and stop[state] != text[i]:
                    state = jump[state - 1]
                if stop[state] == text[i]:
                    state += 1
                self.states[s] = state
                if state == len(stop) and state > longest:
                    longest = state
            if longest:
                self.stopped = True
                text = self.held + text[:i + 1]
                self.held = ""
                return text[:len(text) - longest], True
        longest = max(self.states)
        text = self.held + text
        self.held = text[len(text) - longest:]
        return text[:len(text) - longest], False

    def finish(self):
        """The text that was held back, when nothing more comes."""
        text = self.held
        self.held = ""
        return text


cdef list jumps_of(str stop):
    """Knuth, Morris and Pratt's table: where to go on after a mismatch."""
    cdef list jump = [0] * len(stop)
    cdef Py_ssize_t i, state = 0
    for i in range(1, len(stop)):
        while state > 0 and stop[i] != stop[state]:
            state = jump[state - 1]
        if stop[i] == stop[state]:
            state += 1
        jump[i] = state
    return jump
