//! The work of a run, by its seed, and the least time that it needs.

use std::time::Duration;

use steadfast_core::budget::least::{Limit, Work, makespan};

use crate::scenario::Scenario;

/// A small generator of numbers that look random: SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One call as it will be, whoever sends it: the same under every policy.
#[derive(Clone, Copy)]
pub struct Call {
    pub latency: f64,
    pub actual: u64,
    pub estimate: u64,
}

/// The calls of all jobs by a seed: 2 s each, half more or less; sizes from 100 to 10,000 tokens.
pub fn calls(scenario: &Scenario, seed: u64) -> Vec<Vec<Call>> {
    let mut random = Random(seed ^ 0x5eed);
    let mut call = || {
        let actual = 100.0 * 100f64.powf(random.unit());
        let off = 1.0 + scenario.estimate_error * (2.0 * random.unit() - 1.0);
        Call { latency: 1.0 + 2.0 * random.unit(), actual: actual as u64, estimate: (actual * off) as u64 }
    };
    (0..scenario.jobs).map(|_| (0..scenario.calls).map(|_| call()).collect()).collect()
}

/// The least makespan by arithmetic; without the changes and strangers that a scenario may have.
pub fn bound(scenario: &Scenario, seed: u64) -> f64 {
    let calls = calls(scenario, seed);
    let all = || calls.iter().flatten();
    let duration = Duration::from_secs_f64;
    let limit = |meter: &crate::server::Meter| {
        let most = meter.most.iter().map(|(_, most)| *most).fold(0.0, f64::max);
        Limit {
            kind: meter.kind,
            most,
            window: duration(meter.window),
            burst: most * meter.burst_share,
            passed: duration(meter.passed),
        }
    };
    let mut limits = vec![(limit(&scenario.server.requests), all().count() as f64)];
    if let Some(meter) = &scenario.server.tokens {
        limits.push((limit(meter), all().map(|call| call.actual as f64).sum()));
    }
    let sum = |job: &Vec<Call>| job.iter().map(|call| call.latency).sum::<f64>();
    let work = Work {
        total: duration(all().map(|call| call.latency).sum()),
        longest_job: duration(calls.iter().map(sum).fold(0.0, f64::max)),
        shortest_call: duration(all().map(|call| call.latency).fold(f64::MAX, f64::min)),
        at_once: scenario.at_once as u32,
    };
    makespan(&limits, &work).as_secs_f64()
}
