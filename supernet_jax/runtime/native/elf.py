"""What can be seen of a shared library before it is loaded.

The loader ends the whole process where a part of a library is missing (SIGBUS, SIGSEGV), and says
"no such file" of one for another processor. Both are in its header (System V ABI, chapter 4).
"""

import os
import pathlib
import struct

THIS_PROCESS = pathlib.Path("/proc/self/exe")
MACHINES = {21: "POWER", 62: "x86-64", 183: "ARM", 243: "RISC-V", 258: "LoongArch"}
HEADER = struct.Struct("<4sBB10xHHIQQQIHHHHHH")  # of 64 bits, little-endian
SECTION = struct.Struct("<II")  # how a section begins
STRING_TABLE = 3  # the type of the section that names the others


def fault(library: pathlib.Path) -> str | None:
    """Why a library cannot be loaded, as far as its header tells; None where it tells nothing, and
    for files of another form, of which the loader speaks well.

    Raises:
        OSError: it cannot be read.
    """
    with library.open("rb") as file:
        start = file.read(HEADER.size)
        if len(start) < HEADER.size or start[:6] != b"\x7fELF\x02\x01":
            return None
        found = HEADER.unpack(start)
        machine, sections, size, number, names = found[4], found[8], *found[13:16]
        own = _own_machine()
        if own is not None and machine != own:
            was, needed = (MACHINES.get(code, f"number {code}") for code in (machine, own))
            return f"was built for another processor ({was}; this one is {needed})"
        # The table of sections is what a linker writes last.
        file.seek(sections + size * names)
        kind = file.read(SECTION.size)
        whole = os.fstat(file.fileno()).st_size >= sections + size * number
    if not whole or len(kind) < SECTION.size or SECTION.unpack(kind)[1] != STRING_TABLE:
        return "is damaged, its end is missing"
    return None


def _own_machine() -> int | None:
    """The processor that this process is compiled for; None where the system does not tell."""
    try:
        with THIS_PROCESS.open("rb") as file:
            start = file.read(HEADER.size)
    except OSError:  # not Linux
        return None
    return HEADER.unpack(start)[4] if start[:6] == b"\x7fELF\x02\x01" else None
