"""The part that runs next to model-written programs: standard library only, started by its source text (``-c``).

``isolate`` builds a world of its own (mount, pid, net, ipc and uts namespaces, a read-only tree, an unused user id);
bubblewrap can do that part instead. ``supervise`` is process 1 of that world: it forks one child that runs program
and test, watches its limits, writes one line of JSON, and by ending takes every process left in there with it.
``adg.sandbox.host`` is the side that calls this.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time

MACHINE = os.uname().machine
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
LIBC.syscall.restype = ctypes.c_long
LIBC.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = 0x1 | 0x2 | 0x4 | 0x8 | 0x400 | 0x800 | 0x200000  # ro, nosuid, nodev, noexec, no(dir)atime, relatime
PIVOT_ROOT, CAPSET = {"x86_64": 155, "aarch64": 41}, {"x86_64": 126, "aarch64": 91}
DEVICES = ("null", "zero", "full", "random", "urandom")
# numbers of the calls that are refused outright: socket, ptrace, mount, umount2, pivot_root, chroot, unshare, setns,
# memfd_create, process_vm_readv, process_vm_writev, keyctl, add_key, request_key, bpf, userfaultfd, perf_event_open,
# io_uring_setup, pidfd_open, pidfd_send_signal, open_by_handle_at; and shmget, semget, msgget, mq_open, whose memory
# belongs to no process that could be measured
REFUSED = {
    "x86_64": "41 101 165 166 155 161 272 308 319 310 311 250 248 249 321 323 298 425 434 424 304 29 64 68 240",
    "aarch64": "198 117 40 39 41 51 97 268 279 270 271 219 217 218 280 282 241 425 434 424 265 194 190 186 180",
}
ARCHITECTURE = {"x86_64": (0xC000003E, 56, 62), "aarch64": (0xC00000B7, 220, 129)}  # audit name, clone, kill


def call(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, value: int = 0, pointer: int = 0) -> None:
    call(LIBC.prctl(option, value, pointer, 0, 0), f"prctl {option}")


# -- building the world -------------------------------------------------------------------------------
def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if part is None else os.fsencode(part) for part in (source, target, kind, data)]
    call(LIBC.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"mount {source} on {target}")


def bind_read_only(source: str, target: str) -> None:
    """``source`` at ``target`` with everything mounted below it, none of it writable."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a", encoding="utf-8").close()
    mount(source, target, None, MS_BIND | MS_REC)
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        points = [line.split()[4].encode().decode("unicode_escape") for line in table]
    for point in points:
        if point == target or point.startswith(target.rstrip("/") + "/"):
            kept = os.statvfs(point).f_flag & KEPT_FLAGS
            mount(point, point, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | kept)


def enter_user_namespace(uid: int) -> None:
    """Become root of a new user namespace in which ``uid`` exists; called by an ordinary user, become ``uid`` itself.

    The host's root is never held to a number of processes, whatever it is called inside. So root's world also holds
    an unused id to change to; mapping two ids takes a process that stays outside. Raises ``OSError``.
    """
    user, group, here = os.geteuid(), os.getegid(), os.getpid()
    if user:
        call(LIBC.unshare(NEWUSER), "new user namespace")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {user} 1"), ("gid_map", f"{uid} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        return
    entered = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(entered[1])
        if os.read(entered[0], 1):
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{here}/{name}", "w", encoding="utf-8") as file:
                    file.write(f"0 0 1\n{uid} {uid} 1\n")
        os._exit(0)
    call(LIBC.unshare(NEWUSER), "new user namespace")
    os.write(entered[1], b"x")
    _, status = os.waitpid(helper, 0)
    if status:
        raise OSError(f"the user ids of the new user namespace could not be set (status {status})")


def isolate(setup: dict) -> None:
    """Become process 1 of a new world without any privilege; the process that calls stays outside and waits.

    ``setup``: user_namespace (bool), uid (to become), binds [[source, target]], links [[target, name]], parents
    (folders on the way to a bind: passed through, not listed), scratch_bytes, inodes, environment. Raises ``OSError``
    where the system refuses.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if setup["user_namespace"]:
        enter_user_namespace(setup["uid"])
    call(LIBC.unshare(NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS), "new namespaces")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    new = "/tmp"  # covered by a file system of our own before anything is put there
    for source, _ in setup["binds"]:
        if source.startswith("/tmp/"):
            new = "/mnt"
    mount("tmpfs", new, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for source, target in setup["binds"]:
        bind_read_only(source, new + target)
    for target, name in setup["links"]:
        os.makedirs(os.path.dirname(new + name), exist_ok=True)
        os.symlink(target, new + name)
    for name in setup["parents"]:
        os.chmod(new + name, 0o111)
    for device in DEVICES:
        os.makedirs(f"{new}/dev", exist_ok=True)
        open(f"{new}/dev/{device}", "a", encoding="utf-8").close()
        mount(f"/dev/{device}", f"{new}/dev/{device}", None, MS_BIND)
    os.makedirs(f"{new}/proc")
    mount("proc", f"{new}/proc", "proc", MS_NOSUID | MS_NODEV | 8)
    os.makedirs(f"{new}/tmp")
    room = f"size={setup['scratch_bytes']},nr_inodes={setup['inodes']},mode=1777"
    mount("tmpfs", f"{new}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, room)
    os.makedirs(f"{new}/old")
    os.chdir(new)
    call(LIBC.syscall(PIVOT_ROOT[MACHINE], b".", b"old"), "pivot_root")
    os.chdir("/")
    call(LIBC.umount2(b"/old", 2), "unmount of the old tree")
    os.rmdir("/old")
    mount("/", "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    if os.getuid() != setup["uid"]:
        os.setgroups([])
        os.setresgid(*(setup["uid"],) * 3)
        os.setresuid(*(setup["uid"],) * 3)
    header, nothing = struct.pack("IiQ", 0x20080522, 0, 0), struct.pack("6I", *(0,) * 6)
    call(LIBC.syscall(CAPSET[MACHINE], header, nothing), "giving up capabilities")
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user id cleared it
    os.chdir("/tmp")
    os.environ.clear()
    os.environ.update(setup["environment"])


# -- watching one program -----------------------------------------------------------------------------
def refuse_calls() -> None:
    """Refuse system calls that a benchmark answer has no use for (seccomp); nothing on an unknown machine type."""
    if MACHINE not in REFUSED:
        return
    arch, clone, kill = ARCHITECTURE[MACHINE]
    load, equal, above, masked, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill_process, eperm, enosys = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
    new_namespace = 0x7E020000
    rules = [
        (load, 0, 0, 4),
        (equal, 1, 0, arch),
        (give, 0, 0, kill_process),
        (load, 0, 0, 0),
        (above, 0, 1, 0x40000000),
        (give, 0, 0, eperm),
    ]
    for number in map(int, REFUSED[MACHINE].split()):
        rules += [(equal, 0, 1, number), (give, 0, 0, eperm)]
    rules += [(equal, 0, 1, 435), (give, 0, 0, enosys)]  # clone3: libraries fall back to clone, whose flags show
    rules += [
        (equal, 0, 4, clone),
        (load, 0, 0, 16),
        (masked, 0, 1, new_namespace),
        (give, 0, 0, eperm),
        (load, 0, 0, 0),
    ]
    rules += [
        (equal, 0, 5, kill),
        (load, 0, 0, 16),
        (equal, 1, 0, 1),
        (equal, 0, 1, 0xFFFFFFFF),
        (give, 0, 0, eperm),
        (load, 0, 0, 0),
    ]
    rules += [(give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def run_program(program: str, test: str, token: int, result: int) -> None:
    """Run ``program`` and then ``test`` in one namespace; report on ``result``; never returns.

    What reports success was bound before the program ran and reads the pass word only after the test ended, so
    leaving early, printing, or replacing builtins does not pass. From the test's first line on nothing may trace it.
    """
    run, read, write, leave, no_trace, no_profile = exec, os.read, os.write, os._exit, sys.settrace, sys.setprofile
    watch_events = sys.addaudithook
    pristine = dict(vars(builtins))
    try:
        first = compile(program, "<program>", "exec", dont_inherit=True)
        second = compile(test, "<test>", "exec", dont_inherit=True)
        names: dict = {}
        run(first, names)
        no_trace(None)
        no_profile(None)
        watch_events(refuse_tracing)
        names["__builtins__"] = pristine
        run(second, names)
    except BaseException as error:
        write(result, f"{type(error).__name__}: {error}"[:500].encode(errors="replace"))
        leave(1)
    write(result, b"passed " + read(token, 64))
    leave(0)


def refuse_tracing(event: str, _: tuple) -> None:
    """An audit hook: a traced test could be led past its own assertions."""
    if event in ("sys.settrace", "sys.setprofile"):
        raise PermissionError("a program may not trace its test")


def start(request: dict, token: int, result: int, output: int) -> None:
    """In the forked child: own session, limits, no inherited files but the two of the protocol; never returns."""
    limits = request["limits"]
    prctl(PR_SET_DUMPABLE, 1)
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for number in range(3, 64):
        if number not in (token, result):
            try:
                os.close(number)
            except OSError:
                continue
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_NPROC, limits["process_limit"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))
    if os.path.isdir("/packages"):
        sys.path.append("/packages")
    refuse_calls()
    run_program(request["program"], request["test"], token, result)


def others() -> list[int]:
    """Process ids in this world, this one left out."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def resident_bytes(processes: list[int]) -> int:
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process}/statm", encoding="utf-8") as file:
                total += int(file.read().split()[1])
        except (OSError, IndexError):  # it has just ended
            continue
    return total * resource.getpagesize()


def reap(first: int) -> int | None:
    """Collect every ended process; the wait status of ``first`` if it is among them."""
    ended_with = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended_with
        if process == 0:
            return ended_with
        if process == first:
            ended_with = status


def watch(child: int, secret: bytes, result: int, output: int, limits: dict) -> str:
    """Wait for the program; "" when it passed, else why it did not."""
    deadline = time.monotonic() + limits["wall_seconds"]
    answer, printed, status, looked = b"", 0, None, 0.0
    pipes = [result, output]
    while status is None:
        ready, _, _ = select.select(pipes, [], [], 0.01)
        for pipe in ready:
            data = os.read(pipe, 1 << 16)
            if not data:
                pipes.remove(pipe)
            elif pipe == output:
                printed += len(data)
            else:
                answer = (answer + data)[:4096]
        now = time.monotonic()
        if printed > limits["output_bytes"]:
            return f"printed more than {limits['output_bytes']} bytes"
        if now > deadline:
            return f"timed out ({limits['wall_seconds']} s)"
        if now - looked > 0.03:
            looked = now
            processes = others()
            if len(processes) > limits["processes"]:
                return f"started more than {limits['processes']} processes"
            if resident_bytes(processes) > limits["memory_bytes"]:
                return f"held more than {limits['memory_bytes']} bytes of memory"
            scratch = os.statvfs("/tmp")
            if scratch.f_files - scratch.f_ffree > limits["inodes"]:  # bubblewrap's own tmpfs has no such limit
                return f"made more than {limits['inodes']} files"
        status = reap(child)
    while result in pipes and select.select([result], [], [], 0)[0]:
        data = os.read(result, 1 << 16)
        if not data:
            break
        answer = (answer + data)[:4096]
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return f"timed out ({limits['cpu_seconds']} s of processor time)"
    if code < 0:
        return f"killed by signal {-code}"
    if answer != b"passed " + secret:
        return answer.decode(errors="replace") or f"exited with status {code} before its tests ended"
    until = time.monotonic() + 0.3
    while others():
        reap(child)
        if time.monotonic() > until:
            return "left a process behind"
        time.sleep(0.005)
    return ""


def supervise() -> None:
    request = json.loads(sys.stdin.buffer.read())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl(PR_SET_DUMPABLE, 0)  # the program has the same user id: it may not look into this process
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.write(1, b"started\n")
    token, result, output = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        for pipe in (token[1], result[0], output[0]):
            os.close(pipe)
        start(request, token[0], result[1], output[1])
    for pipe in (token[0], result[1], output[1]):
        os.close(pipe)
    secret = os.urandom(16).hex().encode()  # after the fork: the child's memory does not hold it
    try:
        os.write(token[1], secret)
    except BrokenPipeError:  # nobody reads it: the program has ended, before its tests did
        pass
    begun = time.monotonic()
    error = watch(child, secret, result[0], output[0], request["limits"])
    os.write(1, json.dumps({"error": error, "seconds": round(time.monotonic() - begun, 4)}).encode() + b"\n")
    os._exit(0)  # process 1 ends, and with it every process of this world


if __name__ == "__main__":
    if sys.argv[1] == "isolate":
        isolate(json.loads(sys.argv[2]))
    supervise()
