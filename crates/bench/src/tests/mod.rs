//! Small scenarios end to end: real actors, a queue in memory, paused time.

mod seeds;

use crate::naive::Naive;
use crate::remote::Trouble;
use crate::report::Line;
use crate::rows::{Fleet, Row};
use crate::run::{Least, Measured, Policy, measure};
use crate::scenario;

fn row(name: &str, jobs: usize, at_once: usize, fleet: Fleet, trouble: Trouble, lost: f64) -> Row {
    let scenarios = scenario::all(600.0, jobs, 10, at_once, 0.3);
    let scenario = scenarios.into_iter().find(|scenario| scenario.name == name).unwrap();
    let (most_x, most_429) = (scenario.most_x, scenario.most_429);
    Row { name: scenario.name, scenario, fleet, trouble, lost, seed: 1, most_x, most_429 }
}

fn run(row: &Row, policy: Policy) -> (Measured, f64) {
    let least = Least::of(row);
    let measured = measure(row, policy, &least).unwrap();
    let line = Line::of(row, policy, &least, measured);
    eprintln!("{}", line.text());
    assert_eq!(line.json()["done"], line.measured.done);
    let x = line.measured.makespan / least.bound;
    (line.measured, x)
}

#[test]
fn a_known_limit_is_used_up_and_never_overrun() {
    let row = row("known-bucket", 100, 50, Fleet::Steady(1), Trouble::None, 0.0);
    let (measured, x) = run(&row, Policy::Ours);
    assert_eq!((measured.done, measured.failed, measured.wasted), (100, 0, 0));
    assert!(x <= row.most_x && x > 0.99, "{x}");
    assert!(measured.share_429() <= row.most_429, "{}", measured.share_429());
}

#[test]
fn a_limit_that_nobody_tells_is_found_where_retrying_storms() {
    let row = row("blind-bucket", 100, 50, Fleet::Steady(1), Trouble::None, 0.0);
    let (measured, x) = run(&row, Policy::Ours);
    assert_eq!((measured.done, measured.failed, measured.wasted), (100, 0, 0));
    assert!(x <= 1.5, "{x}");
    let (naive, _) = run(&row, Policy::Naive(Naive::Seed));
    assert!(naive.share_429() > 3.0 * measured.share_429(), "{}", naive.share_429());
}

#[test]
fn killed_processes_lose_no_job_and_pay_no_call_twice() {
    let row = row("known-bucket", 60, 40, Fleet::Killed { processes: 4, at: 20.0 }, Trouble::None, 0.0);
    let (measured, _) = run(&row, Policy::Ours);
    assert_eq!((measured.done, measured.failed), (60, 0));
    assert_eq!(measured.wasted, 0);
}
