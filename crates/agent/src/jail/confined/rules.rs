//! Landlock: which files a command may use, which ports, whom it may signal.
//!
//! What the kernel does not rule on it lets by: attributes (chmod, times) of files that the command
//! may not open, and whether they are there, are left to modes and owners.

use std::fmt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};

use super::Spec;

/// The newest rules that are known here; of these the kernel enforces those that it has.
const NEWEST: ABI = ABI::V9;
/// Devices that do nothing to the machine.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What programs ask about the machine. Nothing of processes: a rule cannot follow `/proc/self`.
const FACTS: [&str; 14] = [
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
    "/proc/sys/fs",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/random",
    "/proc/sys/vm",
    "/sys/devices/system/cpu",
];

/// What of Landlock this kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found(pub ABI);

impl Found {
    /// Whether `truncate` asks the rules.
    pub fn rules_truncate(self) -> bool {
        self.0 >= ABI::V3
    }

    /// Whether connecting to a socket in the file system asks the rules.
    pub fn rules_sockets(self) -> bool {
        self.0 >= ABI::V9
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Landlock ABI {}", self.0 as i32)?;
        if self.0 < ABI::V2 {
            f.write_str(" (nothing is moved from folder to folder, before Linux 5.19)")?;
        }
        if self.0 < ABI::V6 {
            f.write_str(
                " (signals to other processes of the same user are not held back, before Linux 6.12)",
            )?;
        }
        Ok(())
    }
}

/// Restricts this process and all that comes of it.
pub(super) fn restrict(spec: &Spec) -> Result<Found, String> {
    let status = ruleset(spec).map_err(|error| format!("Landlock: {error}"))?;
    let found = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Found(effective_abi),
        LandlockStatus::NotEnabled => {
            return Err("Landlock is not enabled: boot with lsm=landlock,...".into());
        }
        LandlockStatus::NotImplemented => {
            return Err(
                "this kernel has no Landlock, or the container forbids it: Linux 5.13 is needed".into()
            );
        }
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(found),
        RulesetStatus::NotEnforced => Err("Landlock enforces nothing here".into()),
    }
}

fn ruleset(spec: &Spec) -> Result<landlock::RestrictionStatus, Box<dyn std::error::Error>> {
    let mut rules = Ruleset::default()
        // Without the first rules on files there is no jail.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !spec.network {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut rules = rules.create()?;
    let read: BitFlags<AccessFs> = AccessFs::from_read(NEWEST);
    rules = rules.add_rules(path_beneath_rules(&spec.read, read))?;
    rules = rules.add_rules(path_beneath_rules(FACTS, AccessFs::ReadFile | AccessFs::ReadDir))?;
    rules = rules.add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?;
    let own = AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    for folder in &spec.write {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, own))?;
    }
    Ok(rules.restrict_self()?)
}
