# Attempts to get out of a sandbox; arguments name files that are left out. The words of a refused call are EPERM, EACCES, EROFS, ENOSYS, EAFNOSUPPORT or ENOENT.
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
refusals = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.EAFNOSUPPORT, errno.ENOENT}
attempts, found = 0, 0

def tell(*words):
    global found
    found += 1
    print(*words)

def refused(name, attempt):
    global attempts
    attempts += 1
    ctypes.set_errno(0)
    try:
        answer = attempt()
        number = ctypes.get_errno() if answer == -1 else None
    except OSError as error:
        number = error.errno
    if number not in refusals:
        tell('NOT REFUSED', name, number)

for name in os.listdir('/proc/self/fd'):
    if int(name) > 2:
        try:
            tell('LEAKED', os.readlink('/proc/self/fd/' + name))
        except FileNotFoundError:
            pass  # the descriptor of this very listing

# Nobody outside may be in its process group, whom a signal to the group would reach.
if 0 in (os.getpgrp(), os.getsid(0)):
    tell('SHARED', os.getpgrp(), os.getsid(0))

# System calls by number: mounts and roots, namespaces, other processes, the kernel, keys, clocks, devices.
calls = dict(mount=165, umount2=166, pivot_root=155, fsopen=430, fsmount=432, move_mount=429, open_tree=428,
    mount_setattr=442, chroot=161, unshare=272, setns=308, clone3=435, ptrace=101, process_vm_readv=310,
    process_vm_writev=311, pidfd_getfd=438, kcmp=312, bpf=321, perf_event_open=298, userfaultfd=323,
    io_uring_setup=425, init_module=175, finit_module=313, delete_module=176, kexec_load=246, kexec_file_load=320,
    add_key=248, request_key=249, keyctl=250, settimeofday=164, clock_settime=227, adjtimex=159, swapon=167,
    reboot=169, iopl=172, ioperm=173, open_by_handle_at=304, name_to_handle_at=303, quotactl=179, acct=163,
    syslog=103, fanotify_init=300, lookup_dcookie=212, nfsservctl=180, vhangup=153, sethostname=170)
for name, number in calls.items():
    refused(name, lambda: libc.syscall(number, 0, 0, 0, 0, 0))
refused('clone with namespaces', lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
refused('typing into a terminal', lambda: libc.syscall(16, 0, 0x5412, b'x'))

for name, family, kind, protocol in (('packets', socket.AF_PACKET, socket.SOCK_RAW, 0),
        ('raw', socket.AF_INET, socket.SOCK_RAW, 1), ('raw 6', socket.AF_INET6, socket.SOCK_RAW, 58),
        ('vsock', 40, socket.SOCK_STREAM, 0), ('crypto', 38, 5, 0)):
    refused(name, lambda: socket.socket(family, kind, protocol))

for path, kind, device in (('/tmp/disk', 0o60666, os.makedev(254, 0)), ('/dev/mem', 0o20666, os.makedev(1, 1))):
    refused('node ' + path, lambda: os.mknod(path, kind, device))

for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hostname',
        '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger', '/proc/1/mem', '/proc/1/oom_score_adj',
        '/proc/self/uid_map', '/proc/self/setgroups', '/sys/kernel/uevent_helper', '/sys/fs/cgroup/release_agent',
        '/usr/bin/twill-was-here', '/etc/passwd', '/twill-was-here', '/proc/1/exe', '/proc/self/exe', '/proc/bus/x'):
    if path in sys.argv:
        continue
    new = 0 if os.path.exists(path) else os.O_CREAT
    refused('write ' + path, lambda: os.write(os.open(path, os.O_WRONLY | new), b'0 0 1'))

for path in ('/proc/1/root/etc', '/proc/1/cwd', '/proc/1/exe', '/proc/1/ns/mnt', '/proc/1/fd/0', '/proc/1/environ'):
    refused('look into ' + path, lambda: os.listdir(path) if path.endswith('etc') else os.readlink(path)
        if 'environ' not in path else open(path).read())

for path in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/interrupts'):
    if os.path.exists(path) and open(path, 'rb').read(64):
        tell('NOT REFUSED read', path)
for path in ('/root', '/home', '/boot', '/etc/shadow', '/etc/ssh', '/var/lib/dpkg', '/sys/kernel', '/dev/vda', '/dev/sda', '/dev/kmsg'):
    if os.path.exists(path):
        tell('NOT HIDDEN', path)
print(f'attempts {attempts}, not refused {found}')
sys.exit(found > 0)
