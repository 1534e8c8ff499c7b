//! seccomp: system calls that a build has no use for, and that Landlock does not rule on.
//!
//! All others are allowed: a list of what builds may need would never end. A refused call fails
//! with EPERM, and a call of another architecture ends the program.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::rules::Found;

/// Refused whatever the arguments.
const REFUSED: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Parts of the kernel where others fell through.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_vhangup,
    // What all processes of the machine share, and what outlives them.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

/// Flags of clone and unshare that make namespaces.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];
/// Calls that set limits and turns of another process, and the argument that names it: 0 is the
/// caller. The warden, of the same user perhaps, must not be starved.
const OTHERS: [(c_long, u8); 6] = [
    (libc::SYS_prlimit64, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
];
/// asm-generic/ioctls.h; libc has them in a type of its own on each system.
const TIOCSTI: u64 = 0x5412;
/// The same.
const TIOCLINUX: u64 = 0x541c;
/// unshare only: in clone the same bit is part of a signal.
const NEWTIME: u64 = 0x80;
/// Bits of a socket's type that are the type.
const TYPE: u64 = 0xf;
/// linux/personality.h: only asks.
const ASK: u64 = 0xffff_ffff;
/// System calls of x86-64 with this bit are x32's: the same calls by other numbers.
const X32: u32 = 0x4000_0000;

type Error = Box<dyn std::error::Error>;

/// Restricts this process and all that comes of it.
pub(super) fn apply(network: bool, found: &Found) -> Result<(), String> {
    let programs = programs(network, found).map_err(|error| format!("seccomp: {error}"))?;
    programs.iter().try_for_each(|program| apply_filter(program)).map_err(|error| format!("seccomp: {error}"))
}

fn programs(network: bool, found: &Found) -> Result<[BpfProgram; 3], Error> {
    // Its flags lie in memory, which a filter does not see; without it, clone is used.
    let unseen = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([no_x32(), compile(unseen, libc::ENOSYS)?, compile(refused(network, found)?, libc::EPERM)?])
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int) -> Result<BpfProgram, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

/// seccomp(2): loads the number of the call, compares, returns.
fn no_x32() -> BpfProgram {
    let (load, at_least, give) = (0x20, 0x35, 0x06);
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(load, 0, 0, 0),
        step(at_least, 0, 1, X32),
        step(give, 0, 0, refuse),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn refused(network: bool, found: &Found) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for flag in NAMESPACES {
        namespaces.push(rule([has(0, u64::from(flag.unsigned_abs()))?])?);
    }
    rules.insert(libc::SYS_clone, namespaces.clone());
    namespaces.push(rule([has(0, NEWTIME)?])?);
    rules.insert(libc::SYS_unshare, namespaces);
    let persona = [is_not(0, 0)?, is_not(0, ASK)?];
    rules.insert(libc::SYS_personality, vec![rule(persona)?]);
    for (call, argument) in OTHERS {
        rules.insert(call, vec![rule([is_not(argument, 0)?])?]);
    }
    // Typing into a terminal that somebody else reads.
    rules.insert(libc::SYS_ioctl, vec![rule([is(1, TIOCSTI)?])?, rule([is(1, TIOCLINUX)?])?]);
    if !found.rules_truncate() {
        rules.insert(libc::SYS_truncate, Vec::new());
    }
    sockets(&mut rules, network, found)?;
    Ok(rules)
}

/// A socket in the file system may be anybody's, a database's or a container engine's, and may take
/// orders from the worker's user: they are shut unless Landlock rules on them. What talks by
/// `socketpair` does not notice; but a datagram can be sent to any address.
fn sockets(rules: &mut BTreeMap<i64, Vec<SeccompRule>>, network: bool, found: &Found) -> Result<(), Error> {
    let mut families = Vec::new();
    if network {
        families.extend([libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]);
    }
    if found.rules_sockets() {
        families.push(libc::AF_UNIX);
    }
    let mut others = Vec::new();
    for family in families {
        others.push(is_not(0, u64::from(family.unsigned_abs()))?);
    }
    let refused = if others.is_empty() { Vec::new() } else { vec![SeccompRule::new(others)?] };
    rules.insert(libc::SYS_socket, refused);
    if !found.rules_sockets() {
        let datagrams =
            condition(1, SeccompCmpOp::MaskedEq(TYPE), u64::from(libc::SOCK_DGRAM.unsigned_abs()))?;
        rules.insert(libc::SYS_socketpair, vec![rule([datagrams])?]);
    }
    Ok(())
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.into())?)
}

/// All arguments are `int`s to the kernel, or have nothing above: the upper half is not looked at.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?)
}

fn has(argument: u8, bits: u64) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpOp::MaskedEq(bits), bits)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpOp::Ne, value)
}

#[cfg(test)]
mod tests {
    use landlock::ABI;

    use super::*;

    /// How many rules there are for a call: `None` allows it, 0 refuses it whatever it is asked.
    fn rules(call: c_long, network: bool, abi: ABI) -> Option<usize> {
        refused(network, &Found(abi)).unwrap().get(&call).map(Vec::len)
    }

    #[test]
    fn what_an_old_kernel_does_not_rule_on_is_refused() {
        assert_eq!(rules(libc::SYS_truncate, false, ABI::V2), Some(0));
        assert_eq!(rules(libc::SYS_truncate, false, ABI::V3), None);
        assert_eq!(rules(libc::SYS_socket, false, ABI::V8), Some(0));
        assert_eq!(rules(libc::SYS_socket, false, ABI::V9), Some(1));
        assert_eq!(rules(libc::SYS_socket, true, ABI::V8), Some(1));
        assert_eq!(rules(libc::SYS_socketpair, true, ABI::V8), Some(1));
        assert_eq!(rules(libc::SYS_socketpair, true, ABI::V9), None);
    }

    #[test]
    fn all_filters_compile() {
        for abi in [ABI::V1, ABI::V9] {
            for network in [false, true] {
                let programs = programs(network, &Found(abi)).unwrap();
                assert!(programs.iter().all(|program| (4..4096).contains(&program.len())));
            }
        }
    }
}
