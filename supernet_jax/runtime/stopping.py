"""Being asked to stop: SIGTERM and SIGUSR1 from schedulers, Ctrl-C from people, heard at once.

Whatever is done here may be killed at any moment and goes on when it is started again. So a signal
raises `Stopped` where the process is, as Ctrl-C raises `KeyboardInterrupt` in Python. Only while
there is something worth finishing, as a training step that nobody has saved yet, is it held back:
the loop asks for it after each step. Python runs no handler of its own while a program is compiled
or run; a thread therefore sees to it that the process is gone some seconds after the signal.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

UNFINISHED = 75  # exit status: what was done is saved, the same command goes on (EX_TEMPFAIL)
INTERRUPTED = 130  # exit status after Ctrl-C, as of a shell's own commands
SECONDS = 2.0  # from a signal until the process leaves from within compiled code
HELD_SECONDS = 7.0  # the same while there is a step that is worth finishing
EXIT_SECONDS = 5.0  # for an interpreter that comes down after an error
GOES_ON = "the same command goes on where it stopped"
ANEW = "it keeps nothing, so the same command begins anew"


class Stopped(KeyboardInterrupt):
    """The process was asked to stop. Nobody catches it for good but the command line's door.

    Attributes:
        number: of the signal.
        step: of the training that was saved; None where there was nothing to save.
    """

    def __init__(self, number: int, step: int | None = None):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.step = number, step
        if step is not None:
            self.add_note(f"step {step} is saved; started again, training goes on from there")

    @property
    def status(self) -> int:
        """The exit status that tells a scheduler to start the command again, or a person's 130."""
        return INTERRUPTED if self.number == signal.SIGINT else UNFINISHED


class Rescue(NamedTuple):
    """What is done before a process leaves from within compiled code, in a thread of its own.

    Attributes:
        ready: whether there is something to save, so that the main thread is not waited for.
        save: saves it.
    """

    ready: Callable[[], bool]
    save: Callable[[], None]


class _Heard(NamedTuple):
    number: int
    time: float


_rescue: Rescue | None = None
_heard: _Heard | None = None  # the first signal of this process; it is on its way out since
_thrown: Stopped | None = None  # by the handler, into whatever the main thread was doing
_held = 0  # how many `held` are entered
_released = 0.0  # when the last of them was left
_patient = False  # whether a save is under way, which is waited for as long as it takes
_listening = False
_program = True  # whether Ctrl-C may end the process, which is not so in a notebook
farewell: Callable[[int], None] | None = None  # tells others with what status this process leaves
what_next = GOES_ON  # for whoever stopped this process; a command that keeps nothing says `ANEW`


@contextlib.contextmanager
def listening(*, program: bool = True, ends: bool = False) -> Iterator[None]:
    """While entered, signals are heard as this module says. Within itself it does nothing; outside
    the main thread, where Python has no signals, neither.

    Args:
        program: whether the process is the work that is stopped. Else, as in a notebook, Ctrl-C
            raises and never ends the process, however long compiled code runs on.
        ends: whether the process ends after it. Its status is settled then, so that signals which
            come while the interpreter comes down are ignored.
    """
    global _listening, _program, _heard, _thrown, what_next
    if _listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, _hear) for number in _signals()}
    waker = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reading,), daemon=True, name="signals")
    watch.start()
    _listening, _program = True, program
    unraisable = sys.unraisablehook

    def leave_out(what: Any) -> None:
        """Where Python cannot raise, as in a callback of its garbage collector, it would print."""
        if not isinstance(what.exc_value, Stopped):
            unraisable(what)

    sys.unraisablehook = leave_out
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends else handler)
        _listening, _heard, _thrown, what_next = False, None, None, GOES_ON
        if sys.unraisablehook is leave_out:
            sys.unraisablehook = unraisable
        signal.set_wakeup_fd(waker)
        os.close(writing)  # which ends the thread
        watch.join()
        os.close(reading)


def asked() -> int:
    """The number of the signal that asked this process to stop; 0 for none."""
    return 0 if _heard is None else _heard.number


def thrown() -> Stopped | None:
    """What a signal raised here, which others may have made another error of since."""
    return _thrown


def stop(step: int | None = None) -> NoReturn:
    """Raises `Stopped` by the signal that was heard here, or by another process of the job."""
    raise Stopped(asked() or signal.SIGTERM, step)


@contextlib.contextmanager
def held(*, patient: bool = False) -> Iterator[None]:
    """While entered, a signal raises nothing; ask `asked` when it suits.

    Args:
        patient: do not leave after `HELD_SECONDS` either, as while a save is written.
    """
    global _held, _patient, _released
    _held, before, _patient = _held + 1, _patient, _patient or patient
    try:
        yield
    finally:
        _held, _patient, _released = _held - 1, before, time.monotonic()


@contextlib.contextmanager
def rescued(rescue: Rescue) -> Iterator[None]:
    """While entered, a process that leaves from within compiled code saves first."""
    global _rescue
    before, _rescue = _rescue, rescue
    try:
        yield
    finally:
        _rescue = before


def leave(status: int) -> None:
    """Ends the process now: no thread is waited for, as of a compiler or of a failed save.

    Python's own way out would wait for some and bring the interpreter down under others, which
    then crash it.
    """
    if farewell is not None:
        farewell(status)
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(1)  # no longer: a reader may have stopped to read
    os._exit(status)


def leave_within(status: int) -> None:
    """Lets the interpreter come down by itself, but not for longer than `EXIT_SECONDS`: some
    libraries wait for threads that have failed.
    """
    timer = threading.Timer(EXIT_SECONDS, leave, (status,))
    timer.daemon = True
    timer.start()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that has gone
            stream.flush()


def _signals() -> tuple[int, ...]:
    return signal.SIGTERM, signal.SIGUSR1, signal.SIGINT


def _hear(number: int, frame: types.FrameType | None) -> None:
    """Python's handler, in the main thread, between two steps of the interpreter."""
    global _heard, _thrown
    if _heard is None:
        _heard = _Heard(number, time.monotonic())
    elif number == signal.SIGINT and time.monotonic() - _heard.time > 1:  # twice means now
        if _program:
            leave(INTERRUPTED)
        raise Stopped(number)
    else:
        return
    if not _held:
        _thrown = Stopped(number)
        if _program and _importing(frame):
            _leave_by(number)
        raise _thrown


def _importing(frame: types.FrameType | None) -> bool:
    """Whether a module is being imported: those in C++ may crash when an exception meets them."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave_by(number: int) -> None:
    os.write(2, f"supernet: stopped; {what_next}\n".encode())
    leave(Stopped(number).status)


def _watch(reading: int) -> None:
    """Ends the process when the main thread does not, which may be deep in compiled code.

    Python writes the numbers of signals into the pipe as they come, whatever the main thread does.
    """
    while numbers := os.read(reading, 1):
        if numbers[0] in _signals() and (_program or numbers[0] != signal.SIGINT):
            break
    else:
        return
    start = time.monotonic()
    while _patient or time.monotonic() < max(start, _released) + (
        HELD_SECONDS if _held and not (_rescue and _rescue.ready()) else SECONDS
    ):
        time.sleep(0.05)
        if not _listening:
            return
    if _rescue and _rescue.ready():
        try:
            _rescue.save()
        except Exception as error:  # whatever it is, what was saved before stays
            os.write(2, f"supernet: the last steps are lost: {error}\n".encode())
    _leave_by(numbers[0])
