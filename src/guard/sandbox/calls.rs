//! The restriction of system calls by seccomp (seccomp(2)). A relay may make the calls that its files, sockets, threads
//! and timers need; it starts no program. Any other call fails with `ENOSYS`, for which libraries have another way.

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_THREAD, PR_GET_NAME, PR_SET_NAME, PROT_EXEC, PROT_WRITE,
    c_int, c_long,
};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Reads, writes and their events.
const INPUT_AND_OUTPUT: [c_long; 42] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_copy_file_range,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_sync_file_range,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_flock,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
];

/// Files by name.
const FILES: [c_long; 24] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_truncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_utimensat,
    libc::SYS_umask,
];

const SOCKETS: [c_long; 16] = [
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
];

/// Memory, threads, signals to this process, time, and facts about the process.
const PROCESS: [c_long; 51] = [
    libc::SYS_shutdown,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_times,
    libc::SYS_capget,
    libc::SYS_getrandom,
];

/// Older spellings of the calls above, which this architecture alone has.
#[cfg(target_arch = "x86_64")]
const OLD: [c_long; 24] = [
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_pause,
    libc::SYS_arch_prctl,
    libc::SYS_utime,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [c_long; 0] = [];

/// Device requests: non-blocking and close-on-exec flags, terminals and their width, unread and unsent bytes, and the
/// index of a network interface.
const REQUESTS: [u64; 9] = [0x5421, 0x5450, 0x5451, 0x5401, 0x5413, 0x541b, 0x5411, 0x894b, 0x8933];

/// Calls that no version of the relay makes: other processes' memory, mounts, kernel code, keys, clocks, accounts.
const DANGEROUS: [c_long; 40] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
];

/// Allows this thread only the calls of a relay.
pub(super) fn allow_needed() -> Result<(), Error> {
    let plain = INPUT_AND_OUTPUT.into_iter().chain(FILES).chain(SOCKETS).chain(PROCESS).chain(OLD);
    let mut rules: Vec<(c_long, Vec<SeccompRule>)> = plain.map(|call| (call, Vec::new())).collect();
    rules.extend(limited_calls()?);
    let otherwise = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply_filter(&compile(rules, otherwise, SeccompAction::Allow)?)
}

/// Forbids this thread the calls that no version of the relay makes.
pub(super) fn forbid_dangerous() -> Result<(), Error> {
    let rules = DANGEROUS.into_iter().map(|call| (call, Vec::new())).collect();
    let forbidden = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    apply_filter(&compile(rules, SeccompAction::Allow, forbidden)?)
}

fn compile(
    rules: Vec<(c_long, Vec<SeccompRule>)>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram, Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules.into_iter().collect(), otherwise, action, architecture)?;
    Ok(filter.try_into()?)
}

/// Calls that are allowed with some arguments only.
fn limited_calls() -> Result<Vec<(c_long, Vec<SeccompRule>)>, Error> {
    let word =
        |argument, value: c_int| condition(argument, SeccompCmpOp::Eq, u64::from(value.unsigned_abs()));
    let without = |argument, flag: c_int| {
        condition(argument, SeccompCmpOp::MaskedEq(u64::from(flag.unsigned_abs())), 0)
    };
    let thread = u64::from(CLONE_THREAD.unsigned_abs());
    let families = [AF_UNIX, AF_INET, AF_INET6].map(|family| rule([word(0, family)]));
    // The resolver sorts addresses by the machine's routes.
    let routes = rule([word(0, AF_NETLINK), word(2, libc::NETLINK_ROUTE)]);
    let requests = REQUESTS.into_iter().map(|request| rule([condition(1, SeccompCmpOp::Eq, request)]));
    Ok(vec![
        (libc::SYS_socket, families.into_iter().chain([routes]).collect::<Result<_, _>>()?),
        (libc::SYS_ioctl, requests.collect::<Result<_, _>>()?),
        // Threads, and no process. The flags of clone3 are out of a filter's sight; without it libraries use clone.
        (libc::SYS_clone, vec![rule([condition(0, SeccompCmpOp::MaskedEq(thread), thread)])?]),
        // Memory is either written or executed: the resolver loads libraries.
        (libc::SYS_mmap, vec![rule([without(2, PROT_EXEC)])?, rule([without(2, PROT_WRITE)])?]),
        (libc::SYS_mprotect, vec![rule([without(2, PROT_EXEC)])?]),
        (libc::SYS_prctl, vec![rule([word(0, PR_SET_NAME)])?, rule([word(0, PR_GET_NAME)])?]),
        // Limits of this process.
        (libc::SYS_prlimit64, vec![rule([word(0, 0)])?]),
    ])
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?)
}

fn rule<const N: usize>(conditions: [Result<SeccompCondition, Error>; N]) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)?)
}
