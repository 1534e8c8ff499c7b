//! A machine whose disk is full: it says so, its jobs wait at no cost, and go on once there is room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use steadfast_core::job::JobId;
use steadfast_sim::Latency;
use steadfast_store::State;

use crate::support::in_process::{Village, field, paused};
use crate::support::job;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Names the small disk, to the process in which a test goes on.
const DISK: &str = "STEADFAST_TEST_DISK";
/// Its size in bytes: room for two workspaces.
const SIZE: &str = "64000000";

/// The small disk, where everything that is temporary lies; `None` to the process that had the test go on
/// in another, whose mounts are its own.
fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(disk) = std::env::var_os(DISK) {
        return Some(disk.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bwrap")
        .args(["--dev-bind", "/", "/", "--size", SIZE, "--tmpfs"])
        .args([dir.path(), &std::env::current_exe().unwrap()])
        .args(["--exact", &format!("a_full_disk_is_waited_out::{test}"), "--nocapture"])
        .env(DISK, dir.path())
        .env("TMPDIR", dir.path())
        .output()
        .unwrap_or_else(|error| panic!("bwrap: {error}; apt-get install bubblewrap"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    None
}

/// Fills the disk to its last byte; what it is filled with can be removed.
fn fill(disk: &Path) -> PathBuf {
    let ballast = disk.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    for size in [1 << 20, 1 << 10, 1] {
        while file.write(&vec![0; size]).is_ok_and(|written| written == size) {}
    }
    ballast
}

async fn village() -> Village {
    let latency = Latency::lifelike();
    Village::new(|config| config.latency = latency, "", |store| store).await
}

#[test]
fn a_clone_onto_a_full_disk_waits_for_room() {
    let Some(disk) = small_disk("a_clone_onto_a_full_disk_waits_for_room") else { return };
    paused(async move {
        let village = village().await;
        let ballast = fill(&disk);
        for issue in 1..=2 {
            village.store.submit(&job(&format!("job-{issue}"), issue)).await.unwrap();
        }
        for id in ["job-1", "job-2"] {
            let parked = village.wait_for(id, State::Parked, DAY).await;
            let why = parked.waiting_for.clone().unwrap_or_default();
            assert!(why.contains("disk is full: make room in agent.workspaces"), "{parked:?}");
        }
        tokio::time::sleep(DAY / 24).await;
        for id in ["job-1", "job-2"] {
            let found = village.store.inspect(&JobId::new(id).unwrap()).await.unwrap().unwrap();
            assert_ne!(found.state, State::Ended, "{found:?}");
            assert_eq!((found.counts.attempts, found.counts.crashes), (0, 0), "{found:?}");
            assert!(found.counts.runs < 100, "it does not go round and round: {found:?}");
        }
        std::fs::remove_file(&ballast).unwrap();
        for id in ["job-1", "job-2"] {
            let ended = village.wait_for(id, State::Ended, DAY).await;
            assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        }
        assert_eq!(village.world.records().pulls.len(), 2);
    });
}

#[test]
fn a_disk_that_fills_up_on_the_way_costs_no_turn() {
    let Some(disk) = small_disk("a_disk_that_fills_up_on_the_way_costs_no_turn") else { return };
    paused(async move {
        let village = village().await;
        village.store.submit(&job("one", 1)).await.unwrap();
        let id = JobId::new("one").unwrap();
        // The workspace is open, and the model has been asked.
        while village.store.inspect(&id).await.unwrap().unwrap().counts.steps < 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ballast = fill(&disk);
        let parked = village.wait_for("one", State::Parked, DAY).await;
        assert!(parked.waiting_for.as_ref().is_some_and(|why| why.contains("disk is full")), "{parked:?}");
        std::fs::remove_file(&ballast).unwrap();
        let ended = village.wait_for("one", State::Ended, DAY).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        let records = village.world.records();
        assert_eq!((records.pulls.len(), records.paid_twice()), (1, 0));
    });
}
