//! A few processes and a ledger that the test plays itself.

use std::time::Duration;

use super::{Act, Answer, Fleet, Part, Word};
use crate::budget::{LimitSettings, Outcome, Tick, WindowKind};
use crate::failure::GateReason;

const START: Tick = Duration::from_secs(1_760_000_000);

fn limits() -> LimitSettings {
    LimitSettings {
        requests_per_minute: 600,
        tokens_per_minute: 0,
        concurrency: 0,
        window: WindowKind::Bucket,
        burst: 10,
    }
}

fn at(seconds: f64) -> Tick {
    START + Duration::from_secs_f64(seconds)
}

fn granted(epoch: u64) -> Answer {
    Answer { yours: true, epoch, until: at(1_000.0), ..Answer::default() }
}

/// What is said among the acts.
fn words(acts: &[Act]) -> Vec<Vec<u8>> {
    let said = |act: &Act| match act {
        Act::Say(words) => Some(words.clone()),
        Act::Keep { words, .. } => words.clone(),
    };
    acts.iter().filter_map(said).collect()
}

/// A keeper and a member that know of each other, each with a caller.
fn two() -> (Fleet, Fleet) {
    let (mut keeper, mut member) = (Fleet::new(&limits(), "a#1"), Fleet::new(&limits(), "b#1"));
    for fleet in [&mut keeper, &mut member] {
        fleet.need(at(0.0), 1, 1, 0.0);
        assert!(matches!(fleet.step(at(0.0)).as_slice(), [Act::Keep { epoch: 0, .. }]));
    }
    keeper.kept(at(0.0), granted(1));
    member.kept(at(0.0), Answer { yours: false, epoch: 1, until: at(20.0), ..Answer::default() });
    for want in words(&member.step(at(0.0))) {
        keeper.hear(at(0.0), &want);
    }
    pass_on(&mut keeper, &mut member, at(0.001));
    (keeper, member)
}

/// The keeper's words reach the member, and the ledger says yes.
fn pass_on(keeper: &mut Fleet, member: &mut Fleet, now: Tick) {
    for _ in 0..3 {
        for plan in words(&keeper.step(now)) {
            member.hear(now, &plan);
        }
        keeper.kept(now, granted(1));
    }
}

/// Sends all that may be sent until `end`; the instants.
fn send_all(fleet: &mut Fleet, from: f64, end: f64) -> Vec<f64> {
    let mut sent = Vec::new();
    let mut now = at(from);
    loop {
        let wait = fleet.wait(now, 1);
        if wait == Duration::MAX || now + wait > at(end) {
            return sent;
        }
        now += wait;
        if wait.is_zero() {
            let permit = fleet.take(now, 1);
            fleet.done(now, permit, now, 1, None, Outcome::Accepted);
            sent.push((now - START).as_secs_f64());
        }
    }
}

#[test]
fn a_process_alone_is_its_keeper_and_paces_as_the_budget_does() {
    let mut fleet = Fleet::new(&limits(), "a#1");
    assert_eq!(fleet.wait(at(0.0), 1), Duration::MAX, "nothing is sent before the ledger was asked");
    fleet.need(at(0.0), 5, 5, 0.0);
    fleet.step(at(0.0));
    fleet.kept(at(0.0), granted(1));
    assert_eq!(fleet.part(), Part::Keeper);
    let sent = send_all(&mut fleet, 0.0, 10.0).len();
    assert!((105..=110).contains(&sent), "{sent} in 10 s at 10 a second and 10 at once");
}

#[test]
fn two_share_and_together_never_exceed_the_limit() {
    let (mut keeper, mut member) = two();
    let (mut ours, mut theirs) = (0, 0);
    for tenth in 0..300 {
        let now = f64::from(tenth) / 10.0;
        for fleet in [&mut keeper, &mut member] {
            fleet.need(at(now), 10, 10, 0.0);
        }
        for want in words(&member.step(at(now))) {
            keeper.hear(at(now), &want);
        }
        pass_on(&mut keeper, &mut member, at(now));
        ours += send_all(&mut keeper, now, now + 0.099).len();
        theirs += send_all(&mut member, now, now + 0.099).len();
        let most = now.mul_add(10.0, 12.0);
        assert!(f64::from(u32::try_from(ours + theirs).unwrap()) <= most + 1.0, "{ours} + {theirs} by {now}");
    }
    assert!(ours + theirs >= 285, "{ours} + {theirs} of 310");
    assert!(ours.abs_diff(theirs) <= 40, "{ours} and {theirs}");
}

#[test]
fn a_gate_that_one_meets_is_shut_for_all() {
    let (mut keeper, mut member) = two();
    let until = at(50.0);
    member.close(at(0.5), until, GateReason::Quota);
    assert_eq!(member.gate(at(0.6)).map(|gate| gate.reason), Some(GateReason::Quota));
    for met in words(&member.step(at(0.5))) {
        keeper.hear(at(0.5), &met);
    }
    assert_eq!(keeper.gate(at(0.6)).map(|gate| gate.until), Some(until));
    assert!(keeper.wait(at(0.6), 1) >= Duration::from_secs(40));
}

#[test]
fn a_keeper_that_fell_silent_is_followed() {
    let (_gone, mut member) = two();
    member.need(at(30.0), 1, 1, 0.0);
    let acts = member.step(at(30.0));
    assert!(matches!(acts.as_slice(), [Act::Keep { epoch: 0, .. }]), "{acts:?}");
    member.kept(at(30.0), granted(2));
    assert_eq!(member.part(), Part::Keeper);
    assert_eq!(member.wait(at(31.0), 1), Duration::ZERO);
}

#[test]
fn without_a_ledger_each_goes_on_with_its_part() {
    let (mut keeper, mut member) = two();
    pass_on(&mut keeper, &mut member, at(1.0));
    let sent: usize = [&mut keeper, &mut member]
        .into_iter()
        .map(|fleet| {
            fleet.away(at(2.0));
            assert_eq!(fleet.part(), Part::Adrift);
            send_all(fleet, 2.0, 62.0).len()
        })
        .sum();
    assert!((540..=602).contains(&sent), "{sent} in a minute at 600");
}

#[test]
fn an_old_keepers_plan_counts_no_more() {
    let (mut keeper, mut member) = two();
    member.kept(at(1.0), Answer { yours: false, epoch: 7, until: at(20.0), ..Answer::default() });
    let before = send_all(&mut member, 1.0, 1.1).len();
    keeper.need(at(25.0), 1, 1, 0.0);
    let plans = words(&keeper.step(at(25.0)));
    assert!(!plans.is_empty());
    for plan in plans {
        member.hear(at(25.0), &plan);
    }
    assert_eq!(send_all(&mut member, 60.0, 61.0).len(), 0, "after {before}");
}

#[test]
fn garbage_on_the_channel_is_passed_over() {
    let (_, mut member) = two();
    let before = member.part();
    for garbage in [b"".as_slice(), b"{}", b"\xff\xfe", b"{\"word\":\"plan\",\"epoch\":-1}", b"[]"] {
        member.hear(at(1.0), garbage);
    }
    assert_eq!(member.part(), before);
}

#[test]
fn numbers_that_cannot_be_meant_are_passed_over() {
    let (mut keeper, mut member) = two();
    let late = r#"{"secs":18446744073709551615,"nanos":0}"#;
    let met = format!(
        r#"{{"word":"met","from":"c#1","permit":{late},"sent":{late},"tokens":1,"outcome":null,"closed":null,"reopened":false}}"#
    );
    let want = r#"{"word":"want","from":"c#1","jobs":4294967295,"admitted":1e300,"tokens":18446744073709551615,"observed":null}"#;
    let plan = format!(
        r#"{{"word":"plan","epoch":9,"keeper":"c#1","void":true,"hello":true,"at":{late},"grants":[],"until":{late},"next":{late},"members":1,"rate":-1.0,"token_rate":null,"opens":null,"gate":null,"say_each":-5.0}}"#
    );
    for absurd in [met.as_str(), want, plan.as_str()] {
        keeper.hear(at(1.0), absurd.as_bytes());
        member.hear(at(1.0), absurd.as_bytes());
    }
    assert_eq!((keeper.part(), member.part()), (Part::Keeper, Part::Member));
    assert!(keeper.members().iter().all(|(name, _)| name != "c#1"));
}

#[test]
fn a_keeper_that_is_alone_again_has_the_whole_concurrency() {
    let settings = LimitSettings { concurrency: 4, ..limits() };
    let mut fleet = Fleet::new(&settings, "a#1");
    fleet.need(at(0.0), 4, 4, 0.0);
    fleet.step(at(0.0));
    fleet.kept(at(0.0), granted(1));
    fleet.flight = Some(1);
    for _ in 0..4 {
        assert_eq!(fleet.wait(at(1.0), 1), Duration::ZERO);
        fleet.take(at(1.0), 1);
    }
    assert_eq!(fleet.wait(at(1.0), 1), Duration::MAX);
}

#[test]
fn what_is_under_way_counts_for_who_becomes_the_keeper() {
    let settings = LimitSettings { concurrency: 1, ..limits() };
    let mut fleet = Fleet::new(&settings, "a#1");
    fleet.need(at(0.0), 2, 2, 0.0);
    fleet.step(at(0.0));
    fleet.away(at(0.0));
    assert_eq!(fleet.wait(at(1.0), 1), Duration::ZERO);
    let permit = fleet.take(at(1.0), 1);
    fleet.kept(at(1.1), granted(1));
    assert_eq!((fleet.part(), fleet.wait(at(1.2), 1)), (Part::Keeper, Duration::MAX));
    fleet.done(at(1.3), permit, at(1.0), 1, None, Outcome::Accepted);
    assert_eq!(fleet.wait(at(1.4), 1), Duration::ZERO);
}

#[test]
fn what_one_cannot_use_is_the_others() {
    let (mut keeper, mut member) = two();
    for fleet in [&mut keeper, &mut member] {
        fleet.need(at(0.1), 100, 100, 0.0);
    }
    for want in words(&member.step(at(0.1))) {
        keeper.hear(at(0.1), &want);
    }
    pass_on(&mut keeper, &mut member, at(0.13));
    let held = member.stock.len();
    assert!(held > 5, "{held}");
    // Its callers are gone, and are not remembered for ever.
    member.need(at(0.2), 0, 0, 0.0);
    member.need(at(12.0), 0, 0, 0.0);
    let told = words(&member.step(at(12.0)));
    assert_eq!(member.stock.len(), 0);
    let Some(Word::Want(want)) = told.first().and_then(|words| Word::decode(words)) else {
        panic!("nothing was said")
    };
    assert_eq!((want.jobs, want.stock), (0, 0));
    assert!(!want.unused.is_empty() && want.unused.len() <= held, "{}", want.unused.len());
}

#[test]
fn where_places_are_fewer_than_members_each_has_one_in_its_turn() {
    let settings = LimitSettings { concurrency: 1, ..limits() };
    let (mut keeper, mut member) = (Fleet::new(&settings, "a#1"), Fleet::new(&settings, "b#1"));
    for fleet in [&mut keeper, &mut member] {
        fleet.need(at(0.0), 3, 3, 0.0);
        fleet.step(at(0.0));
    }
    keeper.kept(at(0.0), granted(1));
    member.kept(at(0.0), Answer { yours: false, epoch: 1, until: at(20.0), ..Answer::default() });
    let (mut ours, mut theirs) = (0, 0);
    for second in 0..120 {
        let now = f64::from(second);
        for fleet in [&mut keeper, &mut member] {
            fleet.need(at(now), 3, 3, 0.0);
        }
        for want in words(&member.step(at(now))) {
            keeper.hear(at(now), &want);
        }
        pass_on(&mut keeper, &mut member, at(now));
        ours += send_all(&mut keeper, now, now + 0.9).len();
        theirs += send_all(&mut member, now, now + 0.9).len();
    }
    assert!(ours > 10 && theirs > 10, "{ours} and {theirs}");
}

#[test]
fn tokens_are_dealt_by_the_sizes_of_those_that_wait() {
    let settings = LimitSettings { tokens_per_minute: 60_000, ..limits() };
    let (mut keeper, mut member) = (Fleet::new(&settings, "a#1"), Fleet::new(&settings, "b#1"));
    for fleet in [&mut keeper, &mut member] {
        assert_eq!(fleet.wait(at(0.0), 5_000), Duration::MAX, "what a request costs is known by this");
        fleet.need(at(0.0), 3, 3, 0.0);
        fleet.step(at(0.0));
    }
    keeper.kept(at(0.0), granted(1));
    member.kept(at(0.0), Answer { yours: false, epoch: 1, until: at(20.0), ..Answer::default() });
    let mut sizes = vec![9_000, 100, 6_000];
    for tenth in 0..600 {
        let now = at(f64::from(tenth) / 10.0);
        member.need(now, 3, u32::try_from(sizes.len()).unwrap(), 0.0);
        member.sizes(sizes.iter().copied());
        for want in words(&member.step(now)) {
            keeper.hear(now, &want);
        }
        pass_on(&mut keeper, &mut member, now);
        while sizes.first().is_some_and(|size| member.wait(now, *size).is_zero()) {
            let size = sizes.remove(0);
            let permit = member.take(now, size);
            member.done(now, permit, now, size, Some(size), Outcome::Accepted);
        }
    }
    assert!(sizes.is_empty(), "{sizes:?} wait for ever");
}

#[test]
fn a_note_that_cannot_be_meant_is_not_plausible() {
    let budget = crate::budget::Budget::new(&limits(), at(0.0));
    let learned = super::Learned {
        settings: limits(),
        budget,
        noted_at: at(0.0),
        granted_until: at(1.0),
        alone: false,
    };
    assert!(learned.is_plausible());
    let note = serde_json::to_value(&learned).unwrap();
    for (field, absurd) in [("most", "1e300"), ("most", "-5.0"), ("window", r#"{"secs":0,"nanos":0}"#)] {
        let mut note = note.clone();
        note["budget"]["requests"][field] = serde_json::from_str(absurd).unwrap();
        let read: super::Learned = serde_json::from_value(note).unwrap();
        assert!(!read.is_plausible(), "{field} {absurd}");
    }
}

#[test]
fn who_leaves_frees_the_keepership() {
    let (mut keeper, _) = two();
    assert!(matches!(keeper.leave().as_slice(), [Act::Keep { lease: Duration::ZERO, .. }]));
}

#[test]
fn a_note_is_read_back_unless_the_configuration_changed() {
    let mut first = Fleet::new(&LimitSettings::UNKNOWN, "a#1");
    first.need(at(0.0), 1, 1, 0.0);
    first.step(at(0.0));
    first.kept(at(0.0), granted(1));
    send_all(&mut first, 0.0, 2.0);
    first.need(at(20.0), 1, 1, 0.0);
    let note = first.step(at(20.0)).into_iter().find_map(|act| match act {
        Act::Keep { note, .. } => note,
        Act::Say(_) => None,
    });
    let text = serde_json::to_string(&note.unwrap()).unwrap();
    let note = || serde_json::from_str(&text).ok();
    for settings in [LimitSettings::UNKNOWN, limits()] {
        let mut next = Fleet::new(&settings, "b#1");
        next.need(at(21.0), 1, 1, 0.0);
        next.step(at(21.0));
        next.kept(at(21.0), Answer { note: note(), ..granted(2) });
        let known = settings == limits();
        assert_eq!(next.request_limit().is_some(), known, "what config says counts, not the note");
        assert_eq!(next.wait(at(30.0), 1), Duration::ZERO);
    }
}

/// The ledger is lost before a plan gave the process places.
#[test]
fn adrift_before_any_plan_no_more_is_in_flight_than_is_configured() {
    let limits = LimitSettings { concurrency: 2, ..limits() };
    let mut member = Fleet::new(&limits, "b#1");
    member.need(at(0.0), 5, 5, 0.0);
    member.step(at(0.0));
    member.kept(at(0.0), Answer { yours: false, epoch: 1, until: at(20.0), ..Answer::default() });
    member.away(at(0.0));
    assert_eq!(member.part(), Part::Adrift);
    for sent in 1..=2 {
        let now = at(f64::from(sent) * 10.0);
        assert!(member.wait(now, 1).is_zero(), "call {sent} of two may go");
        member.take(now, 1);
    }
    assert_eq!(member.wait(at(30.0), 1), Duration::MAX, "two are in flight");
    member.done(at(30.0), at(10.0), at(10.0), 1, None, Outcome::Accepted);
    assert!(member.wait(at(31.0), 1).is_zero(), "a place is free again");
}

#[test]
fn who_follows_one_that_died_knows_what_it_sent_but_for_a_moment() {
    // One at a time, a second each; then as fast as the window lets it.
    for pause in [1_000, 20, 390] {
        let settings = LimitSettings { window: WindowKind::Fixed, requests_per_minute: 60, ..limits() };
        let mut dies = Fleet::new(&settings, "a#1");
        dies.need(at(0.0), 5, 5, 0.0);
        let (mut note, mut sent) = (None, 0);
        let mut now = at(0.0);
        while now < at(15.3) {
            for act in dies.step(now) {
                if let Act::Keep { note: noted, .. } = act {
                    note = noted.or(note);
                    dies.kept(now, granted(1));
                }
            }
            if dies.wait(now, 1).is_zero() && sent < 40 {
                let permit = dies.take(now, 1);
                dies.done(now, permit, now, 1, None, Outcome::Accepted);
                sent += 1;
            }
            now += Duration::from_millis(pause);
        }
        let mut next = Fleet::new(&settings, "b#1");
        next.need(now, 5, 5, 0.0);
        next.step(now);
        next.kept(now, Answer { note: note.map(|note| *note), ..granted(2) });
        // Until what is left of the window is used up, as far as it knows.
        let mut more = 0;
        while next.wait(now, 1) < Duration::from_secs(3) {
            now += next.wait(now, 1);
            let permit = next.take(now, 1);
            next.done(now, permit, now, 1, None, Outcome::Unknown);
            more += 1;
        }
        assert!((48..=61).contains(&(sent + more)), "{sent} and {more} at a pause of {pause} ms");
    }
}

#[test]
fn a_newcomer_asks_again_when_a_keeper_that_seems_gone_surely_is() {
    let mut fleet = Fleet::new(&limits(), "b#1");
    fleet.need(at(0.0), 1, 1, 0.0);
    fleet.step(at(0.0));
    fleet.kept(at(0.0), Answer { yours: false, epoch: 1, until: at(1.0), ..Answer::default() });
    assert!(fleet.next(at(0.0)).unwrap() <= Duration::from_millis(1_250), "{:?}", fleet.next(at(0.0)));
    let acts = fleet.step(at(1.25));
    assert!(matches!(acts.as_slice(), [Act::Keep { epoch: 0, .. }]), "{acts:?}");
}
