# cython: language_level=3
"""The loops over a whole vocabulary, of some 262144 tokens and 515000 merges: bytes of tokens, checked merges."""
from skipstone.errors import FileError
from skipstone.files.messages import shown_value

cdef short[0x144] BYTE                  # GPT-2's alphabet: the byte that a letter stands for, -1 for none


# Characters looked at while merges are derived; 16 million for the 262144 tokens of Gemma 3.
cdef enum:
    WORK_LIMIT = 1 << 26


cdef void fill_alphabet() noexcept:
    cdef int letter, byte, beyond = 0x100
    for letter in range(0x144):
        BYTE[letter] = -1
    for byte in range(256):
        if 0x21 <= byte <= 0x7e or 0xa1 <= byte <= 0xac or 0xae <= byte <= 0xff:
            BYTE[byte] = byte
        else:
            BYTE[beyond] = byte
            beyond += 1

fill_alphabet()

ALPHABET = [chr(letter) for letter in range(0x144) if BYTE[letter] >= 0]


def byte_level_pieces(list tokens):
    """The bytes of tokens written in GPT-2's byte alphabet; a token with any other letter stands for itself."""
    cdef list pieces = [b""] * len(tokens)
    cdef Py_ssize_t i, j
    cdef Py_UCS4 letter
    cdef bytearray piece
    for i in range(len(tokens)):
        token = <str> tokens[i]
        piece = bytearray(len(token))
        for j in range(len(token)):
            letter = (<str> token)[j]
            if letter >= 0x144 or BYTE[letter] < 0:
                pieces[i] = (<str> token).encode()
                break
            piece[j] = BYTE[letter]
        else:
            pieces[i] = bytes(piece)
    return pieces


def check_merges(list merges, dict vocabulary, set excluded, str where):
    """Merges, each "left right" or [left, right], as pairs. Both and their union must be in the vocabulary (token -> id).

    A merge that makes a token of `excluded` is left out: ordinary text must never become one of those.
    """
    cdef list pairs = []
    cdef Py_ssize_t i, at
    for i in range(len(merges)):
        merge = merges[i]
        if type(merge) is str:
            at = (<str> merge).find(" ", 1)
            left, right = (merge[:at], merge[at + 1:]) if at > 0 else (None, None)
        elif type(merge) is list and len(merge) == 2:
            left, right = merge
        else:
            left = right = None
        if type(left) is not str or type(right) is not str:
            raise FileError(f"{where}[{i}] is {shown_value(merge)}; expected two tokens with a space between them")
        both = left + right
        for token in (left, right, both):
            if token not in vocabulary:
                raise FileError(f"{where}[{i}] is {shown_value(merge)}, but {shown_value(token)} is no token of the vocabulary; expected merges of tokens")
        if both not in excluded:
            pairs.append((left, right))
    return pairs


def merges_from_scores(list tokens, list order, set mergeable, str where):
    """The merges of a SentencePiece vocabulary, which has scores instead.

    order: token ids, best score first. mergeable: tokens that may take part. Every way to build a token from two others
    becomes a merge with the token's rank. Among them the longer left part comes first, which is where SentencePiece's
    rule, the leftmost of equal scores, meets them in a run of equal characters.
    Ordinary vocabularies have two merges a token (Gemma 3: 514847 for 262144); one with far more would take memory beyond all measure.
    """
    cdef Py_ssize_t limit = 4 * len(tokens) + 4096
    cdef list pairs = []
    cdef Py_ssize_t at, work = 0
    cdef str token
    for index in order:
        token = <str> tokens[index]
        if token in mergeable:
            work += len(token) * len(token)
            if work > WORK_LIMIT:
                raise FileError(f"{where} has tokens that are too long on the whole to derive merges from; expected words and parts of words")
            for at in range(len(token) - 1, 0, -1):
                left = token[:at]
                if left in mergeable:
                    right = token[at:]
                    if right in mergeable:
                        pairs.append((left, right))
            if len(pairs) > limit:
                raise FileError(f"{where} gives over {limit} merges for {len(tokens)} tokens; expected about two for each")
    return pairs
