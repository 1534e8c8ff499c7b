//! Whatever the weather: a seed decides how the providers limit and fail, when the store is away,
//! which runner stands still, dies or drains, whose clock jumps, and which job is called off. What
//! must always hold is looked at after each step. Once it is quiet again, every job ends, once, with
//! each effect once and no turn of the model paid twice without cause.
//!
//! `make chaos SEEDS=1000 FIRST=0` plays many, on all processors. `STEADFAST_SEED=n cargo test --test
//! promises any_weather` plays one seed, `n..m` a range; the log of `STEADFAST_LOG` (as in `log.level`)
//! tells more of its story. The same seed gives the same trace, byte for byte.

mod boiled_down;
mod in_earnest;
mod plan;
mod play;
mod sweep;
mod verdict;

/// Seeds that every run of the tests plays: any world, and worlds that tell the workers their limit.
const SEEDS: [std::ops::Range<u64>; 2] = [0..200, 10_000..10_020];

/// Seeds that found a defect, and what it was.
const FOUND: &[(u64, &str)] = &[
    (43, "a permit that came after the lease was used"),
    (88, "a retry after an outage of the store was sent, though another runner had the job"),
    (236, "a permit that came after the lease was used"),
    (371, "a process that lost the ledger before any plan had more calls in flight than configured"),
    (
        906,
        "a runner whose clock was behind put its job away until a time gone by, and claimed it on the spot",
    ),
];

#[test]
fn fixed_seeds_end_well() {
    let Some(asked) = std::env::var_os("STEADFAST_SEED") else {
        return sweep::play_all(SEEDS.into_iter().flatten());
    };
    let asked = asked.into_string().unwrap();
    let _only_the_first_counts = tracing_subscriber::fmt()
        .with_env_filter(std::env::var("STEADFAST_LOG").unwrap_or_else(|_| "off".to_owned()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    let (from, to) = asked.split_once("..").unwrap_or((&asked, ""));
    let from: u64 = from.parse().unwrap();
    let to = if to.is_empty() { from + 1 } else { to.parse().unwrap() };
    sweep::play_all(from..to);
}

#[test]
fn seeds_that_found_a_defect_end_well() {
    for (seed, defect) in FOUND {
        let played = sweep::play_one(*seed);
        assert!(played.wrong.is_none(), "seed {seed}, which found that {defect}: {:?}", played.wrong);
    }
}

/// Without this a seed would be no reproduction.
#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [1, 4, 7, 9, 15, 23] {
        let [first, second] = [sweep::play_one(seed), sweep::play_one(seed)];
        let (first, second) = (first.trace, second.trace);
        assert!(first.lines().count() > 100, "seed {seed} has no story:\n{first}");
        let differs = first.lines().zip(second.lines()).position(|(one, other)| one != other);
        let around = |trace: &str, at: usize| {
            trace.lines().skip(at.saturating_sub(5)).take(8).collect::<Vec<_>>().join("\n")
        };
        if let Some(at) = differs {
            panic!("seed {seed}, line {at}:\n{}\n--- and\n{}", around(&first, at), around(&second, at));
        }
        assert_eq!(first.len(), second.len(), "seed {seed}: one story goes on longer");
    }
}
