//! Whether the machine has room left. Git says it in many words, or only that it could not write; the
//! file system says it in one.

use std::path::Path;

use steadfast_core::classify::git::{FULL_DISK, FULL_DISK_HINT};
use steadfast_core::failure::{Failure, FatalReason, Verdict};

/// With fewer bytes than these no repository is fetched, checked out or patched.
const LEAST: u64 = 1 << 20;

/// What a failure of work in `folder` means: with a full disk below it, that one waits for room. No
/// attempt is spent on that, and no job ends of it.
pub(super) async fn judge(folder: &Path, failure: Failure) -> Failure {
    match failure.verdict {
        Verdict::Retry { after: None } | Verdict::Verify | Verdict::Fatal { why: FatalReason::Unusable } => {}
        Verdict::Retry { after: Some(_) }
        | Verdict::WaitUntil { .. }
        | Verdict::Refresh
        | Verdict::Shrink
        | Verdict::Fatal { .. } => return failure,
    }
    let folder = folder.to_owned();
    // Not known is not full.
    let full = tokio::task::spawn_blocking(move || is_full(&folder)).await.unwrap_or(false);
    if !full {
        return failure;
    }
    let message: String = format!("{FULL_DISK_HINT}; {}", failure.message).chars().take(500).collect();
    Failure { verdict: Verdict::Retry { after: Some(FULL_DISK) }, message, unhealthy: false, ..failure }
}

fn is_full(folder: &Path) -> bool {
    let Ok(disk) = rustix::fs::statvfs(folder) else { return false };
    // File systems without a size, or without a count of files, say zero of both.
    let bytes = disk.f_blocks > 0 && disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST;
    bytes || (disk.f_files > 0 && disk.f_favail == 0)
}
