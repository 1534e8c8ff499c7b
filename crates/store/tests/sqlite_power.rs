//! The store in SQLite when the power goes or the process is killed: whatever it acknowledged is there.
//!
//! A power cut is made of copies: after each acknowledged transition the file and its -wal are what the
//! disk surely holds, and what the next transition writes may be there in any part, sector by sector.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use steadfast_core::time::Timestamp;
use steadfast_store::sqlite::SqliteStore;
use steadfast_store::{Lease, RetryFrom, Settings, State, Store, Whom, open};

use crate::world::*;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The files as they are now.
#[derive(Clone, PartialEq)]
struct Files {
    main: Vec<u8>,
    wal: Vec<u8>,
}

fn wal_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

impl Files {
    fn of(path: &Path) -> Self {
        Files { main: std::fs::read(path).unwrap(), wal: std::fs::read(wal_of(path)).unwrap_or_default() }
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, &self.main).unwrap();
        std::fs::write(wal_of(path), &self.wal).unwrap();
    }
}

/// What is on the disk when it was told to write `new` over `old` and not to wait for it: any of the
/// sectors that changed.
fn torn(old: &[u8], new: &[u8], dice: &mut StdRng) -> Vec<u8> {
    let mut torn = old.to_vec();
    let share = dice.random_range(0..=10);
    // Sometimes in order, up to some byte.
    let cut = dice.random_bool(0.5).then(|| dice.random_range(0..=new.len()));
    for from in (0..new.len()).step_by(SECTOR) {
        let to = new.len().min(from + SECTOR);
        let written = match cut {
            Some(cut) => from..to.min(cut).max(from),
            None if dice.random_range(0..10) < share => from..to,
            None => continue,
        };
        if torn.len() < written.end {
            // A file that has grown, and whose new part never came.
            torn.resize(written.end, if dice.random_bool(0.5) { 0 } else { 0xa5 });
        }
        torn[written.clone()].copy_from_slice(&new[written]);
    }
    torn
}

/// All that a store tells.
async fn all_of(store: &dyn Store) -> Vec<String> {
    let mut all = vec![format!("{:?} {:?}", store.count().await.unwrap(), store.paused().await.unwrap())];
    for job in store.list(None, 1000).await.unwrap() {
        let replay = store.replay(&job.job.id).await.unwrap();
        all.push(format!("{job:?} {replay:?}"));
    }
    all
}

/// Jobs and leases as a test goes on with them.
struct Life {
    dice: StdRng,
    jobs: u32,
    held: Vec<(Lease, u32)>,
}

impl Life {
    fn new(seed: u64) -> Self {
        Life { dice: StdRng::seed_from_u64(seed), jobs: 0, held: Vec::new() }
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let bytes = self.dice.random_range(0..=most);
        (0..bytes).map(|_| self.dice.random()).collect()
    }

    /// One transition, whichever.
    async fn step(&mut self, store: &dyn Store) {
        let which = self.dice.random_range(0..12);
        if which < 2 || self.jobs == 0 {
            self.jobs += 1;
            let repository = format!("o{}/r{}", self.jobs % 3, self.jobs % 2);
            store.submit(&of(&format!("job-{}", self.jobs), &repository)).await.unwrap();
            return;
        }
        let some = id(&format!("job-{}", self.dice.random_range(1..=self.jobs)));
        let at = self.dice.random_range(0..self.held.len().max(1));
        match (which, self.held.get_mut(at)) {
            (2, _) => drop(store.cancel(&some).await.unwrap()),
            (3, _) => drop(store.retry(&some, RetryFrom::Start).await.unwrap()),
            (4, _) => store.pause(&Whom::owner("o1")).await.unwrap(),
            (5, _) => store.resume(&Whom::owner("o1")).await.unwrap(),
            (6..=8, Some((lease, steps))) => {
                let (lease, at) = (lease.clone(), *steps);
                *steps += 1;
                let (step, patch) = (self.bytes(3000), self.bytes(20_000));
                store.append(&lease, at, &[step], Some(&patch)).await.unwrap();
            }
            (9, Some(_)) => {
                let (lease, _) = self.held.remove(at);
                store.park(&lease, Timestamp::from_secs(1), "x").await.unwrap();
            }
            (10, Some(_)) => {
                let (lease, _) = self.held.remove(at);
                store.settle(&lease, &completed()).await.unwrap();
            }
            _ => {
                let claims = store.claim(2).await.unwrap();
                self.held.extend(claims.into_iter().map(|claim| (claim.lease, claim.counts.steps)));
            }
        }
    }
}

/// Opens a copy as it was left by a power cut.
async fn after(cut: &Files) -> Vec<String> {
    // A folder for each: whoever had a copy open may still be closing it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    cut.write(&path);
    let store = open(&Settings::for_tests(format!("sqlite:{}", path.display())), "b").await.unwrap();
    all_of(&*store).await
}

async fn a_life_with_power_cuts(seed: u64) -> (u32, u32) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let settings = Settings::for_tests(format!("sqlite:{}", path.display()));
    let store = SqliteStore::open(&path, &settings, "a").await.unwrap();
    // Every commit is on the disk before it is acknowledged; the -wal goes into the file now and then.
    assert_eq!(store.pragma("synchronous").await.unwrap(), 2, "FULL");
    store.set_pragma("wal_autocheckpoint", 20).await.unwrap();
    let mut life = Life::new(seed);
    let (mut cuts, mut moved) = (0, 0);
    let (mut files, mut told) = (Files::of(&path), all_of(&store).await);
    for step in 0..40 {
        life.step(&store).await;
        let (new_files, new_told) = (Files::of(&path), all_of(&store).await);
        for _ in 0..3 {
            // The power goes while the -wal is written: all before is there, and the new whole or not.
            let cut =
                Files { main: files.main.clone(), wal: torn(&files.wal, &new_files.wal, &mut life.dice) };
            let found = after(&cut).await;
            assert!(
                found == told || found == new_told,
                "seed {seed}, step {step}: {found:#?}\nis neither {told:#?}"
            );
            cuts += 1;
        }
        // It goes after the -wal was written: while it moves into the file, or with garbage after it.
        let main = torn(&files.main, &new_files.main, &mut life.dice);
        moved += u32::from(files.main != new_files.main);
        let mut wal = new_files.wal.clone();
        wal.extend(life.bytes(10_000));
        let found = after(&Files { main, wal }).await;
        assert_eq!(found, new_told, "seed {seed}, step {step}");
        cuts += 1;
        (files, told) = (new_files, new_told);
    }
    (cuts, moved)
}

#[tokio::test]
async fn a_power_cut_at_any_write_loses_nothing_that_was_acknowledged() {
    let (mut cuts, mut moved) = (0, 0);
    for seed in 0..6 {
        let (more_cuts, more_moved) = a_life_with_power_cuts(seed).await;
        (cuts, moved) = (cuts + more_cuts, moved + more_moved);
    }
    assert!(cuts > 500 && moved > 10, "{cuts} cuts, {moved} of them while the -wal moved into the file");
}

/// A test that is a process of its own when it is told so by the environment.
const CHILD: &str = "STEADFAST_STORE_TEST_CHILD";

/// How many jobs a child leads at once.
const LIVES: u32 = 4;

/// Leads jobs through their lives, and tells of each transition once it is acknowledged. Ends when
/// `most` were told, or never.
async fn lead(url: &str, round: u32, most: u32, tell: impl Fn(String) + Send + Sync + 'static) {
    let store = open(&Settings::for_tests(url), &format!("child-{round}")).await.unwrap();
    let tell = Arc::new(tell);
    let lives = (0..LIVES).map(|life| {
        let (store, tell) = (Arc::clone(&store), Arc::clone(&tell));
        tokio::spawn(async move {
            for n in 0..most {
                let name = format!("{round}-{life}-{n}");
                // An owner of its own: whom a claim gives may be another life's.
                store.submit(&of(&name, &format!("o{life}/r"))).await.unwrap();
                tell(format!("submitted {name}"));
                let claims = store.claim(1).await.unwrap();
                for claim in claims {
                    let (lease, name) = (claim.lease, claim.job.id);
                    tell(format!("claimed {name} {}", lease.token.0));
                    for at in claim.counts.steps..claim.counts.steps + 3 {
                        store.append(&lease, at, &[format!("{name} {at}").into_bytes()], None).await.unwrap();
                        tell(format!("appended {name} {}", at + 1));
                    }
                    match n % 3 {
                        0 => {
                            store.park(&lease, Timestamp::MAX, "x").await.unwrap();
                            tell(format!("parked {name} {}", lease.token.0));
                        }
                        _ => {
                            store.settle(&lease, &completed()).await.unwrap();
                            tell(format!("ended {name} 0"));
                        }
                    }
                }
            }
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.unwrap();
    }
}

/// Checks that what was told is so, or has gone on from there.
async fn holds(store: &dyn Store, said: &str) {
    let mut words = said.split(' ');
    let (what, name, number) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or("0"));
    let number: u32 = number.parse().unwrap();
    let found = store.inspect(&id(name)).await.unwrap();
    let Some(found) = found else { panic!("{said}: the job is not there") };
    match what {
        "submitted" => {}
        "claimed" => assert!(found.counts.runs >= number, "{said}: {found:?}"),
        "appended" => {
            let steps = store.replay(&id(name)).await.unwrap().steps;
            assert!(steps.len() >= number as usize, "{said}: {} steps", steps.len());
            for (at, step) in steps.iter().enumerate() {
                assert_eq!(*step, format!("{name} {at}").into_bytes(), "{said}");
            }
        }
        "parked" => assert!(found.state == State::Parked && found.counts.waits == 1, "{said}: {found:?}"),
        "ended" => assert_eq!(found.state, State::Ended, "{said}"),
        other => panic!("{other}"),
    }
}

/// Which is the child of `a_killed_process_…`, and alone a test that all is so that it tells.
#[tokio::test]
async fn all_that_a_process_tells_is_so() {
    if let Ok(child) = std::env::var(CHILD) {
        let (round, url) = child.split_once(' ').unwrap();
        let tell = |said: String| {
            let mut out = std::io::stdout().lock();
            // Whoever reads may be gone: then this process is, soon.
            let _ = writeln!(out, "told {said}").and_then(|()| out.flush());
        };
        return lead(url, round.parse().unwrap(), u32::MAX, tell).await;
    }
    let world = World::sqlite();
    let said = Arc::new(std::sync::Mutex::new(Vec::new()));
    let list = Arc::clone(&said);
    soon("the end", lead(&world.url(), 0, 4, move |words| list.lock().unwrap().push(words))).await;
    let said = std::mem::take(&mut *said.lock().unwrap());
    let store = world.store("a").await;
    assert!(said.len() > 16 && said.iter().any(|said| said.starts_with("ended")), "{said:?}");
    for said in said {
        holds(&*store, &said).await;
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_acknowledged() {
    const ROUNDS: u32 = 20;
    let world = World::sqlite();
    let mut dice = StdRng::seed_from_u64(7);
    let mut said: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite_power::all_that_a_process_tells_is_so", "--nocapture"])
            .env(CHILD, format!("{round} {}", world.url()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (most, mut heard, mut line) = (dice.random_range(1..60), 0, String::new());
        while {
            line.clear();
            lines.read_line(&mut line).unwrap() > 0
        } {
            // What was cut off by the kill was not told.
            let Some(words) = line.strip_suffix('\n').and_then(|line| line.split_once("told ")) else {
                continue;
            };
            said.push(words.1.to_owned());
            heard += 1;
            if heard == most {
                // It goes on meanwhile: whatever it is at is cut off.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(heard >= most, "round {round}: the process ended by itself after {heard} of {most}");
        let store = world.store("parent").await;
        for said in &said[said.len() - heard..] {
            holds(&*store, said).await;
        }
    }
    let store = world.store("parent").await;
    for said in &said {
        holds(&*store, said).await;
    }
    assert!(said.len() as u32 > 5 * ROUNDS, "{}", said.len());
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room() {
    let world = World::sqlite();
    let path = PathBuf::from(world.url().strip_prefix("sqlite:").unwrap());
    let store = SqliteStore::open(&path, &Settings::for_tests(world.url()), "a").await.unwrap();
    let lease = running(&store, "x").await.lease;
    store.limit_pages(store.pragma("page_count").await.unwrap() + 30).await.unwrap();
    let (mut steps, mut refused, mut queued) = (Vec::new(), 0, 0);
    let mut life = Life::new(3);
    while refused < 20 {
        let step = life.bytes(4000);
        match store.append(&lease, steps.len() as u32, std::slice::from_ref(&step), Some(&step)).await {
            Ok(()) => steps.push(step),
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("full") && told.contains("free"), "{told}");
                refused += 1;
            }
        }
        queued += u64::from(store.submit(&job(&format!("job-{refused}-{}", steps.len()))).await.is_ok());
        let found = look(&store, "x").await;
        assert_eq!(
            (found.counts.steps as usize, store.replay(&id("x")).await.unwrap().steps),
            (steps.len(), steps.clone())
        );
        assert_eq!(store.count().await.unwrap(), [queued, 1, 0, 0]);
    }
    assert!(!steps.is_empty());
    store.limit_pages(1 << 30).await.unwrap();
    store.append(&lease, steps.len() as u32, &[b"room".to_vec()], None).await.unwrap();
    store.settle(&lease, &completed()).await.unwrap();
    drop(store);
    let again = world.store("b").await;
    assert_eq!(again.replay(&id("x")).await.unwrap().steps.len(), steps.len() + 1);
    assert_eq!(again.claim(256).await.unwrap().len() as u64, queued);
}

#[tokio::test]
async fn what_cannot_be_written_is_told_with_what_to_do() {
    let world = World::sqlite();
    let path = PathBuf::from(world.url().strip_prefix("sqlite:").unwrap());
    let store = SqliteStore::open(&path, &Settings::for_tests(world.url()), "a").await.unwrap();
    let lease = running(&store, "x").await.lease;
    // As if the file's disk had been mounted anew for reading only.
    store.set_pragma("query_only", 1).await.unwrap();
    for error in [
        store.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap_err(),
        store.submit(&job("y")).await.unwrap_err(),
        store.claim(1).await.map(|_| ()).unwrap_err(),
    ] {
        let told = error.to_string();
        assert!(told.contains("queue.db") && told.contains("check who may write there"), "{told}");
    }
    // Reading goes on, and nothing is lost.
    assert_eq!(look(&store, "x").await.state, State::Running);
    world.store("b").await.settle(&lease, &completed()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("queue.db")).unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    // Folders in which nobody can make a file: no folder, a file, a folder where the file ought to be.
    let mut places = vec!["no/queue.db", "file/queue.db", "queue.db"];
    // And, for all but the one user whom it does not concern, a file and a folder that are read only.
    let (file, locked) = (folder.path().join("locked.db"), folder.path().join("locked"));
    std::fs::copy(&path, &file).unwrap();
    std::fs::create_dir(&locked).unwrap();
    for place in [&file, &locked] {
        let mut rights = std::fs::metadata(place).unwrap().permissions();
        rights.set_readonly(true);
        std::fs::set_permissions(place, rights).unwrap();
    }
    if std::fs::OpenOptions::new().write(true).open(&file).is_err() {
        places.extend(["locked.db", "locked/queue.db"]);
    }
    for place in places {
        let url = format!("sqlite:{}", folder.path().join(place).display());
        let error = match open(&Settings::for_tests(url), "a").await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{place} was opened"),
        };
        assert!(error.contains(place) && error.contains("make its folder"), "{place}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_is_damaged_is_refused_after_an_unclean_end() {
    let world = World::sqlite();
    let path = PathBuf::from(world.url().strip_prefix("sqlite:").unwrap());
    let store = SqliteStore::open(&path, &Settings::for_tests(world.url()), "a").await.unwrap();
    store.set_pragma("wal_autocheckpoint", 1).await.unwrap();
    for n in 0..40 {
        store.submit(&job(&format!("job-{n}"))).await.unwrap();
    }
    let whole = Files::of(&path);
    assert!(whole.main.len() > 20 * 4096 && !whole.wal.is_empty());
    let copies = tempfile::tempdir().unwrap();
    assert_eq!(after(&whole).await.len(), 41);
    let mut dice = StdRng::seed_from_u64(1);
    let mut found = 0;
    for page in 1..whole.main.len() / 4096 {
        let mut damaged = whole.clone();
        // The pages of today are in the file; of the -wal only its being there is left.
        damaged.wal.truncate(32);
        dice.fill(&mut damaged.main[page * 4096..page * 4096 + 2048]);
        let copy = copies.path().join(format!("damaged-{page}.db"));
        damaged.write(&copy);
        let settings = Settings::for_tests(format!("sqlite:{}", copy.display()));
        match open(&settings, "a").await {
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("is damaged") && told.contains("restore a backup"), "{told}");
                found += 1;
            }
            // A page that nobody uses.
            Ok(store) => assert_eq!(all_of(&*store).await.len(), 41, "page {page}"),
        }
    }
    assert!(found > 15, "{found}");
}
