//! Which system calls a task may make: an allow-list near Docker's, as a tree.
//!
//! The kernel runs the filter once for every call number when it is loaded and again at every call that is
//! not plainly allowed, so a list of comparisons costs 0.7 ms a start and a tree 0.03 ms.
//!
//! Refused calls answer EPERM, calls that the list does not know ENOSYS, so that programs fall back.
//! Refused on purpose: mounts and new roots, namespaces (a user namespace opens much of the kernel to
//! anyone), tracing and reading other processes, kernel modules, bpf, perf, keyrings, kexec, io_uring,
//! userfaultfd, clocks, swap, raw device access, and the old 32-bit entry points.

use std::fmt;
use std::io;
use std::sync::OnceLock;

use libc::c_long;

use super::{At, Stage, StartError};

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

/// Offsets in `struct seccomp_data`.
const DATA_NUMBER: u32 = 0;
const DATA_ARCH: u32 = 4;
/// The low half of each argument is what the kernel looks at in the calls checked here.
const fn data_argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Numbers from here on are unknown to this list.
const NUMBER_END: u32 = 470;

/// Namespaces a task may not make with `clone`.
const CLONE_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Kinds of sockets a task may open.
const SOCKET_FAMILIES: [u32; 4] = [
    libc::AF_UNIX as u32,
    libc::AF_INET as u32,
    libc::AF_INET6 as u32,
    libc::AF_NETLINK as u32,
];

/// Personalities that change nothing of note, and the question for the present one.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// Requests that type into or paste from a terminal on another's behalf.
const IOCTLS_REFUSED: [u32; 2] = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

/// What becomes of one call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Refuse(i32),
    CheckClone,
    CheckIoctl,
    CheckPersonality,
    CheckSocket,
}

/// A filter ready to be loaded.
pub struct Filter {
    program: Vec<libc::sock_filter>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} steps)", self.program.len())
    }
}

impl Filter {
    /// The filter every task runs under.
    pub fn new() -> Filter {
        Filter::allowing(&[])
    }

    /// [`Filter::new`], made once for all processes that are forked behind the first call.
    pub fn of_tasks() -> &'static Filter {
        static FILTER: OnceLock<Filter> = OnceLock::new();
        FILTER.get_or_init(Filter::new)
    }

    /// The filter of whoever looks into a task with a debugger.
    pub fn for_debugging() -> Filter {
        Filter::allowing(DEBUGGING)
    }

    fn allowing(more: &[c_long]) -> Filter {
        let mut program = vec![
            load(DATA_ARCH),
            jump(libc::BPF_JEQ, AUDIT_ARCH, 1, 0),
            give(libc::SECCOMP_RET_KILL_PROCESS),
            load(DATA_NUMBER),
        ];
        program.extend(tree(&segments(more)));
        Filter { program }
    }

    /// Loads the filter for the calling process and all it starts. Needs `no_new_privs`.
    pub fn load(&self) -> Result<(), StartError> {
        let program = libc::sock_fprog {
            len: self.program.len() as u16,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points at `len` instructions that live through the call; the kernel copies them.
        let answer = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
                0,
                0,
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error())
                .at(Stage::Seccomp, "cannot load the system call filter"),
        }
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter::new()
    }
}

/// The action of every number, as runs: each begins at its number and ends at the next one's.
fn segments(more: &[c_long]) -> Vec<(u32, Action)> {
    let mut actions = vec![Action::Refuse(libc::EPERM); NUMBER_END as usize];
    for number in ALLOWED.iter().chain(ALLOWED_HERE).chain(more) {
        actions[*number as usize] = Action::Allow;
    }
    actions[libc::SYS_clone as usize] = Action::CheckClone;
    actions[libc::SYS_ioctl as usize] = Action::CheckIoctl;
    if !more.contains(&libc::SYS_personality) {
        actions[libc::SYS_personality as usize] = Action::CheckPersonality;
    }
    actions[libc::SYS_socket as usize] = Action::CheckSocket;
    // Its flags are in memory, where a filter cannot look; C libraries fall back to clone.
    actions[libc::SYS_clone3 as usize] = Action::Refuse(libc::ENOSYS);
    actions.push(Action::Refuse(libc::ENOSYS));
    let mut runs: Vec<(u32, Action)> = Vec::new();
    for (number, action) in (0..).zip(actions) {
        if runs.last().is_none_or(|(_, last)| *last != action) {
            runs.push((number, action));
        }
    }
    runs
}

/// A binary search over the runs, the number being in the accumulator.
fn tree(runs: &[(u32, Action)]) -> Vec<libc::sock_filter> {
    let [(_, action)] = runs else {
        let (low, high) = runs.split_at(runs.len() / 2);
        let (left, right) = (tree(low), tree(high));
        let mut program = match u8::try_from(left.len()) {
            Ok(skip) => vec![jump(libc::BPF_JGE, high[0].0, skip, 0)],
            Err(_) => vec![
                jump(libc::BPF_JGE, high[0].0, 0, 1),
                libc::sock_filter {
                    code: (libc::BPF_JMP | libc::BPF_JA) as u16,
                    jt: 0,
                    jf: 0,
                    k: left.len() as u32,
                },
            ],
        };
        program.extend(left);
        program.extend(right);
        return program;
    };
    leaf(*action)
}

fn leaf(action: Action) -> Vec<libc::sock_filter> {
    let refuse = errno(libc::EPERM);
    match action {
        Action::Allow => vec![give(libc::SECCOMP_RET_ALLOW)],
        Action::Refuse(error) => vec![give(errno(error))],
        Action::CheckClone => vec![
            load(data_argument(0)),
            jump(libc::BPF_JSET, CLONE_NAMESPACES, 0, 1),
            give(refuse),
            give(libc::SECCOMP_RET_ALLOW),
        ],
        Action::CheckIoctl => one_of(1, &IOCTLS_REFUSED, refuse, libc::SECCOMP_RET_ALLOW),
        Action::CheckPersonality => one_of(0, &PERSONALITIES, libc::SECCOMP_RET_ALLOW, refuse),
        Action::CheckSocket => one_of(
            0,
            &SOCKET_FAMILIES,
            libc::SECCOMP_RET_ALLOW,
            errno(libc::EAFNOSUPPORT),
        ),
    }
}

/// `found` when the argument is one of `values`, else `other`.
fn one_of(argument: u32, values: &[u32], found: u32, other: u32) -> Vec<libc::sock_filter> {
    let mut program = vec![load(data_argument(argument))];
    for (after, value) in values.iter().rev().enumerate().rev() {
        program.push(jump(libc::BPF_JEQ, *value, after as u8 + 1, 0));
    }
    program.push(give(other));
    program.push(give(found));
    program
}

fn errno(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.cast_unsigned()
}

fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

fn jump(condition: u32, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt: yes,
        jf: no,
        k: value,
    }
}

fn give(answer: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: answer,
    }
}

/// Allowed on every architecture.
const ALLOWED: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_mempolicy,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getitimer,
    libc::SYS_getpeername,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_getxattr,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    libc::SYS_io_getevents,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_kill,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_madvise,
    libc::SYS_mbind,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_mremap,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_prlimit64,
    libc::SYS_process_mrelease,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_remap_file_pages,
    libc::SYS_removexattr,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_mempolicy,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setitimer,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setrlimit,
    libc::SYS_setsid,
    libc::SYS_setsockopt,
    libc::SYS_setuid,
    libc::SYS_setxattr,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_socketpair,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_sysinfo,
    libc::SYS_tee,
    libc::SYS_tgkill,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_vmsplice,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a debugger needs besides: it reads and steers other processes, as far as its capabilities reach.
const DEBUGGING: &[c_long] = &[
    libc::SYS_kcmp,
    libc::SYS_personality,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
];

/// The older forms that only this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_ctl_old,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_wait_old,
    libc::SYS_eventfd,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_inotify_init,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_signalfd,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];

#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[c_long] = &[libc::SYS_newfstatat, libc::SYS_renameat];

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn answer(filter: &Filter, number: u32, arguments: [u32; 2]) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let step = filter.program[at];
            at += 1;
            match u32::from(step.code) & 0x07 {
                libc::BPF_LD => {
                    accumulator = match step.k {
                        DATA_NUMBER => number,
                        DATA_ARCH => AUDIT_ARCH,
                        offset => arguments[(offset as usize - 16) / 8],
                    };
                }
                libc::BPF_RET => return step.k,
                _ => {
                    let holds = match u32::from(step.code) & 0xf0 {
                        libc::BPF_JA => {
                            at += step.k as usize;
                            continue;
                        }
                        libc::BPF_JEQ => accumulator == step.k,
                        libc::BPF_JGE => accumulator >= step.k,
                        _ => accumulator & step.k != 0,
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    #[test]
    fn a_debugger_may_trace_and_nothing_else_more() {
        let (plain, debugging) = (Filter::new(), Filter::for_debugging());
        let more = (0..NUMBER_END).filter(|number| {
            let at = |filter| answer(filter, *number, [0x0040_0000, 0]);
            at(&plain) != at(&debugging)
        });
        let mut expected: Vec<u32> = DEBUGGING.iter().map(|number| *number as u32).collect();
        expected.sort_unstable();
        assert_eq!(more.collect::<Vec<u32>>(), expected);
    }

    #[test]
    fn the_tree_answers_every_number_as_the_list_does() {
        let filter = Filter::new();
        let checked = [
            libc::SYS_clone,
            libc::SYS_ioctl,
            libc::SYS_personality,
            libc::SYS_socket,
        ];
        for number in 0..2000_u32 {
            let listed = c_long::from(number);
            if checked.contains(&listed) {
                continue;
            }
            let expected = if ALLOWED.contains(&listed) || ALLOWED_HERE.contains(&listed) {
                libc::SECCOMP_RET_ALLOW
            } else if number >= NUMBER_END || listed == libc::SYS_clone3 {
                errno(libc::ENOSYS)
            } else {
                errno(libc::EPERM)
            };
            assert_eq!(answer(&filter, number, [0, 0]), expected, "call {number}");
        }
        // The x32 entry points are far beyond the list.
        assert_eq!(
            answer(&filter, 0x4000_0000 + 59, [0, 0]),
            errno(libc::ENOSYS)
        );
    }

    #[test]
    fn arguments_decide_where_a_call_is_dangerous_in_part() {
        let filter = Filter::new();
        let ask = |call: c_long, first, second| answer(&filter, call as u32, [first, second]);
        let (allow, refuse) = (libc::SECCOMP_RET_ALLOW, errno(libc::EPERM));
        assert_eq!(ask(libc::SYS_clone, libc::CLONE_VM as u32, 0), allow);
        assert_eq!(
            ask(libc::SYS_clone, libc::CLONE_NEWUSER as u32 | 17, 0),
            refuse
        );
        assert_eq!(ask(libc::SYS_ioctl, 0, libc::TIOCSTI as u32), refuse);
        assert_eq!(ask(libc::SYS_ioctl, 0, libc::TIOCGWINSZ as u32), allow);
        assert_eq!(ask(libc::SYS_socket, libc::AF_INET6 as u32, 0), allow);
        assert_eq!(
            ask(libc::SYS_socket, libc::AF_VSOCK as u32, 0),
            errno(libc::EAFNOSUPPORT)
        );
        assert_eq!(ask(libc::SYS_personality, 0xFFFF_FFFF, 0), allow);
        assert_eq!(ask(libc::SYS_personality, 0x0040_0000, 0), refuse);
    }
}
