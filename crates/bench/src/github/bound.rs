//! The least time for jobs at GitHub's limits, and what a pacer that sees everything makes of it.

use std::collections::VecDeque;

use crate::world::Random;

/// What GitHub allows and asks for. Times are seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// A read, from its sending to its answer.
    pub read: f64,
    /// A write. One at a time: GitHub asks for that.
    pub write: f64,
    /// From the end of a write to the begin of the next, as GitHub asks.
    pub gap: f64,
    /// What creates content: most within any span, several spans.
    pub content: Vec<(f64, usize)>,
    /// Points, of which a read is 1 and a write 5, within any minute.
    pub points: usize,
    /// Requests of any kind an hour.
    pub hourly: usize,
}

/// Reads of a job before its first write: the repository, and whether the comment stands.
pub const READS: usize = 2;
/// Writes of a job: the comment, the pull request, the comment's last word.
pub const WRITES: usize = 3;
/// Those of them that create content.
const CONTENT: usize = 2;
const POINTS: usize = READS + 5 * WRITES;

impl Rules {
    /// Those that GitHub documents, and answers as quick as its own.
    pub fn real() -> Self {
        Rules {
            read: 0.1,
            write: 0.2,
            gap: 1.0,
            content: vec![(60.0, 80), (3600.0, 500)],
            points: 900,
            hourly: 5_000,
        }
    }
}

/// What the jobs need beside GitHub.
#[derive(Clone, Debug)]
pub struct Plan {
    pub at_once: usize,
    /// Of each job, the time between its comment and its pull request: ten calls of the model.
    pub work: Vec<f64>,
}

impl Plan {
    /// 2 s a call, half more or less.
    pub fn drawn(jobs: usize, at_once: usize, seed: u64) -> Self {
        let mut random = Random(seed ^ 0x917);
        let work = (0..jobs).map(|_| (0..10).map(|_| 1.0 + 2.0 * random.unit()).sum()).collect();
        Plan { at_once, work }
    }
}

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    pub makespan: f64,
    pub mean_completion: f64,
}

/// When the last of `count` events can be at the earliest, with at most so many within any span.
fn spread(count: usize, spans: &[(f64, usize)]) -> f64 {
    let mut log: VecDeque<f64> = VecDeque::new();
    let mut now: f64 = 0.0;
    for _ in 0..count {
        now = now.max(room(&log, spans));
        log.push_back(now);
    }
    now
}

/// When there is room for one more.
fn room(log: &VecDeque<f64>, spans: &[(f64, usize)]) -> f64 {
    let back = |&(span, most): &(f64, usize)| {
        let index = log.len().checked_sub(most)?;
        log.get(index).map(|at| at + span)
    };
    spans.iter().filter_map(back).fold(0.0, f64::max)
}

/// The least time that any policy could need that does what GitHub asks for. Each of these is needed:
/// - all writes one after the other with the gap between, after one job's reads;
/// - the content, at most so much within any span; after the last of it, a pull request, comes a gap and
///   the last word;
/// - the points of all, 900 within any minute; the requests of all, 5,000 within an hour;
/// - each job's own time, with so many at once.
pub fn least(plan: &Plan, rules: &Rules) -> f64 {
    let jobs = plan.work.len();
    if jobs == 0 {
        return 0.0;
    }
    let head = READS as f64 * rules.read;
    let writes = (jobs * WRITES) as f64;
    let lane = head + writes * rules.write + (writes - 1.0) * rules.gap;
    let content = head + spread(jobs * CONTENT, &rules.content) + 2.0 * rules.write + rules.gap;
    let points = 60.0 * ((jobs * POINTS).div_ceil(rules.points) - 1) as f64;
    let hourly = 3600.0 * ((jobs * (READS + WRITES)).div_ceil(rules.hourly) - 1) as f64;
    let own = head + WRITES as f64 * rules.write + rules.gap;
    let work: f64 = plan.work.iter().map(|work| work.max(rules.gap) + own).sum();
    let places = work / plan.at_once.min(jobs) as f64;
    [lane, content, points, hourly, places].into_iter().fold(0.0, f64::max)
}

#[derive(Clone, Copy)]
struct Job {
    writes: usize,
    ready: f64,
}

/// A pacer that serves the oldest job first and knows when there is room. Points and the hour of all
/// requests are left out: where they bind, its time is no more than a lower one.
pub fn pacer(plan: &Plan, rules: &Rules) -> Times {
    let head = READS as f64 * rules.read;
    let mut running: Vec<(usize, Job)> = Vec::new();
    let mut next = 0;
    let mut log = VecDeque::new();
    let (mut lane, mut sum, mut last) = (0.0_f64, 0.0, 0.0_f64);
    while next < plan.at_once.min(plan.work.len()) {
        running.push((next, Job { writes: 0, ready: head }));
        next += 1;
    }
    while !running.is_empty() {
        let free = room(&log, &rules.content);
        let when = |job: &Job| {
            let content = if job.writes < CONTENT { free } else { 0.0 };
            job.ready.max(lane).max(content)
        };
        let begin = running.iter().map(|(_, job)| when(job)).fold(f64::INFINITY, f64::min);
        let Some(index) = running.iter().position(|(_, job)| when(job) <= begin) else { break };
        let Some((number, job)) = running.get_mut(index) else { break };
        if job.writes < CONTENT {
            log.push_back(begin);
        }
        let end = begin + rules.write;
        lane = end + rules.gap;
        job.writes += 1;
        job.ready = if job.writes == 1 { end + plan.work.get(*number).copied().unwrap_or(0.0) } else { end };
        if job.writes == WRITES {
            running.remove(index);
            sum += end;
            last = last.max(end);
            if next < plan.work.len() {
                running.push((next, Job { writes: 0, ready: end + head }));
                next += 1;
            }
        }
    }
    Times { makespan: last, mean_completion: sum / plan.work.len().max(1) as f64 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// All there is to know of a schedule so far, in whole seconds.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct State {
        lane: u32,
        /// Writes done, and when the next may begin.
        jobs: Vec<(usize, u32)>,
        begun: usize,
        content: Vec<u32>,
    }

    /// The least makespan over all schedules, by trying each: at every second each write that may begin
    /// begins, or nothing does.
    fn brute(work: &[u32], at_once: usize, (write, gap): (u32, u32), content: &[(u32, usize)]) -> u32 {
        let begun = at_once.min(work.len());
        let jobs = (0..work.len()).map(|_| (0, 0)).collect();
        let mut states = HashSet::from([State { lane: 0, jobs, begun, content: Vec::new() }]);
        let longest = content.iter().map(|(span, _)| *span).max().unwrap_or(0);
        for now in 0..1_000 {
            let mut next = HashSet::new();
            for mut state in states {
                // What counts no more and what is over makes no difference.
                state.content.retain(|at| now - *at < longest);
                state.lane = state.lane.max(now);
                for (_, ready) in &mut state.jobs {
                    *ready = now.max(*ready);
                }
                for index in 0..state.begun {
                    let (writes, ready) = state.jobs[index];
                    let creates = writes < CONTENT;
                    let full = content.iter().any(|(span, most)| {
                        state.content.iter().filter(|at| now - **at < *span).count() >= *most
                    });
                    if writes == WRITES || ready > now || state.lane > now || creates && full {
                        continue;
                    }
                    let mut after = state.clone();
                    let end = now + write;
                    after.lane = end + gap;
                    after.jobs[index] = (writes + 1, if writes == 0 { end + work[index] } else { end });
                    if creates {
                        after.content.push(now);
                    }
                    if writes + 1 == WRITES {
                        if after.jobs.iter().all(|(writes, _)| *writes == WRITES) {
                            return end;
                        }
                        if after.begun < work.len() {
                            after.jobs[after.begun].1 = end;
                            after.begun += 1;
                        }
                    }
                    next.insert(after);
                }
                next.insert(state);
            }
            states = next;
        }
        panic!("no schedule ends");
    }

    fn rules((write, gap): (u32, u32), content: &[(u32, usize)]) -> Rules {
        let content = content.iter().map(|(span, most)| (f64::from(*span), *most)).collect();
        Rules { read: 0.0, write: f64::from(write), gap: f64::from(gap), content, points: 900, hourly: 5_000 }
    }

    #[test]
    fn the_bound_is_reached_where_one_thing_binds() {
        for (work, at_once, lane, content) in [
            // The writes: there is always one to do.
            (vec![1, 1, 1], 3, (1, 1), vec![]),
            // The content: two within eleven seconds.
            (vec![1, 1], 2, (1, 1), vec![(11, 2)]),
            // The places: one job after the other.
            (vec![9, 9], 1, (1, 1), vec![]),
        ] {
            let plan = Plan { at_once, work: work.iter().copied().map(f64::from).collect() };
            let least = least(&plan, &rules(lane, &content));
            let brute = f64::from(brute(&work, at_once, lane, &content));
            // The lane's gap between two contents, or two jobs of one place, is in no bound but the lane's.
            assert!(least <= brute && brute <= least + 2.0, "{work:?}: {least}, {brute}");
        }
    }

    #[test]
    fn what_is_within_a_span_counts_in_any_span() {
        assert_eq!(spread(3, &[(60.0, 2)]), 60.0);
        assert_eq!(spread(5, &[(60.0, 2), (200.0, 3)]), 200.0);
        assert_eq!(spread(6, &[(60.0, 2), (200.0, 3)]), 260.0);
        assert_eq!(spread(1_200, &[(60.0, 80), (3600.0, 500)]), 7_200.0 + 120.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn no_schedule_is_faster_than_the_bound(
            work in prop::collection::vec(0..5_u32, 1..4),
            at_once in 1..4_usize,
            write in 1..3_u32,
            gap in 0..2_u32,
            spans in prop::collection::vec((2..9_u32, 1..4_usize), 0..2),
        ) {
            let plan = Plan { at_once, work: work.iter().copied().map(f64::from).collect() };
            let rules = rules((write, gap), &spans);
            let brute = f64::from(brute(&work, at_once, (write, gap), &spans));
            let (least, pacer) = (least(&plan, &rules), pacer(&plan, &rules));
            prop_assert!(least <= brute, "{least} is called the least, {brute} is possible");
            prop_assert!(brute <= pacer.makespan, "the pacer needs {pacer:?}, {brute} is the least");
        }
    }
}
