//! What packing promises: nothing lost, little kept, old steps read, bombs refused.

use steadfast_core::chat::{FinishReason, ModelAnswer, ToolCall, Usage};
use steadfast_core::journal::{Event, JournalError, Step};
use steadfast_core::time::Timestamp;

use super::*;

/// Plenty for every test that is not about it.
const MOST: usize = 1 << 20;

fn unpacked(steps: Vec<Vec<u8>>, most: usize) -> Vec<Vec<u8>> {
    unpack(Replay { steps, patch: Vec::new() }, most).unwrap().steps
}

/// Tool results as agents see them: this crate's own sources, from a place that changes by the turn.
const SOURCES: [&str; 4] = [
    include_str!("../record.rs"),
    include_str!("../memory/mod.rs"),
    include_str!("../settings.rs"),
    include_str!("../redis_store/inbox.rs"),
];

/// The steps of `turns` turns: an answer with a call, and what the tool said.
fn journal(turns: usize) -> Vec<Vec<u8>> {
    let mut steps = Vec::new();
    for turn in 0..turns {
        let at = Timestamp::from_millis(1_760_000_000_000 + 7_919 * turn as i64);
        let lines: Vec<&str> = SOURCES[turn % SOURCES.len()].lines().collect();
        let from = (turn * 37) % (lines.len() - 50);
        let output: String =
            (from..from + 50).map(|line| format!("{:>6}\t{}\n", line + 1, lines[line])).collect();
        // Ids are random in the field: what does not repeat does not pack.
        let id = format!(
            "call_{:016x}{:08x}",
            (turn as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            turn * 7_919
        );
        let arguments = match turn % 3 {
            0 => format!("{{\"path\":\"src/part_{turn}.rs\",\"offset\":{from},\"limit\":50}}"),
            1 => format!("{{\"pattern\":\"fn [a-z_]+{turn}\",\"path\":\"src\"}}"),
            _ => format!(
                "{{\"path\":\"src/a.rs\",\"old_text\":{0:?},\"new_text\":{0:?}}}",
                lines[from..from + 8].join("\n")
            ),
        };
        let answer = ModelAnswer {
            content: Some(format!("{} So I look at place {from} next.", lines[(turn * 53) % lines.len()])),
            reasoning: None,
            tool_calls: vec![ToolCall { id: id.clone(), name: "read_file".into(), arguments }],
            finish: FinishReason::ToolCalls,
            usage: Some(Usage {
                prompt_tokens: 4_000 + 911 * turn as u64,
                completion_tokens: 173,
                cached_tokens: 3_072,
            }),
            model: "gpt-4.1-2025-04-14".into(),
            request_id: Some(format!("req_{id}")),
        };
        steps.push(Step { at, event: Event::ModelAnswered { answer, endpoint: None } }.encode());
        let event = Event::ToolFinished { call_id: id, output, is_error: false };
        steps.push(Step { at, event }.encode());
    }
    steps
}

fn bytes(steps: &[Vec<u8>]) -> usize {
    steps.iter().map(Vec::len).sum()
}

#[test]
fn thirty_turns_take_less_than_forty_kilobytes() {
    let plain = journal(30);
    let packed = pack(&plain).unwrap();
    println!("30 turns: {} bytes plain, {} packed", bytes(&plain), bytes(&packed));
    assert!(bytes(&plain) > 80_000, "not a typical journal: {} bytes", bytes(&plain));
    assert!(bytes(&packed) < 40_000, "{} bytes", bytes(&packed));
    assert_eq!(unpacked(packed, MOST), plain);
}

#[test]
fn the_words_pay() {
    let plain = journal(30);
    let mut without = Compressor::new(LEVEL).unwrap();
    let without: usize = plain.iter().map(|step| without.compress(step).unwrap().len() + 1).sum();
    let with = bytes(&pack(&plain).unwrap());
    println!("with words {with} bytes, without {without}");
    assert!(with * 10 < without * 9, "with words {with} bytes, without {without}");
}

#[test]
fn the_words_are_the_ones_that_journals_were_packed_with() {
    // Packed once and for all: if this fails, steps that stand in queues can no longer be read.
    let step = [b"{\"at\":\"2025-10-09T00:00:00.000Z\",\"event\":\"tool_started\"".as_slice(); 3].concat();
    let hash = WORDS.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!((WORDS.len(), hash), (WORDS_LEN, WORDS_HASH));
    assert_eq!(unpacked(pack(std::slice::from_ref(&step)).unwrap(), MOST), [step]);
}

const WORDS_LEN: usize = 3231;
const WORDS_HASH: u64 = 0xcbcc_809f_b415_e89f;

#[test]
fn whatever_bytes_come_back_as_they_were() {
    let mut steps: Vec<Vec<u8>> = (0..=255).map(|n| vec![n; usize::from(n)]).collect();
    steps.push(vec![PACKED]);
    steps.push(pack(&[vec![7; 500]]).unwrap().remove(0));
    assert_eq!(unpacked(pack(&steps).unwrap(), MOST), steps);
}

#[test]
fn steps_that_were_kept_plain_are_read_beside_packed_ones() {
    let plain = journal(2);
    let mut kept = plain[..2].to_vec();
    kept.extend(pack(&plain[2..]).unwrap());
    assert_eq!((kept[0][0], kept[3][0]), (1, PACKED));
    assert_eq!(unpacked(kept, MOST), plain);
}

#[test]
fn a_newer_version_is_passed_on_and_told_as_one() {
    let newer = vec![99, 1, 2, 3];
    let read = unpacked(vec![newer.clone()], MOST);
    assert_eq!(read, [newer]);
    assert_eq!(Step::decode(&read[0]), Err(JournalError::Newer { found: 99 }));
}

#[test]
fn a_damaged_step_hides_none_of_the_others() {
    let plain = journal(2);
    let mut kept = pack(&plain).unwrap();
    let half = kept[0].len() / 2;
    kept[0].truncate(half);
    kept[1].truncate(2);
    kept[2].truncate(1);
    let read = unpacked(kept, MOST);
    for step in &read[..3] {
        let error = Step::decode(step).unwrap_err();
        assert!(
            matches!(&error, JournalError::Corrupt(why) if why.contains("cut off or damaged")),
            "{error}"
        );
    }
    assert_eq!(read[3], plain[3]);
}

#[test]
fn a_bomb_is_bounded_by_the_cap_of_a_step() {
    let bomb = pack(&[vec![1; 64 << 20]]).unwrap();
    assert!(bytes(&bomb) < 10_000, "not much of a bomb: {} bytes", bytes(&bomb));
    // Honest about its size: refused before a byte is unpacked.
    let error = Step::decode(&unpacked(bomb.clone(), MOST)[0]).unwrap_err();
    assert!(error.to_string().contains("queue.max_step_bytes allows 1048576"), "{error}");
    // One that lies: the second frame behind a small first one gets no room.
    let mut liar = pack(&[vec![1; 100]]).unwrap().remove(0);
    liar.extend_from_slice(&bomb[0][1..]);
    let read = unpacked(vec![liar], MOST);
    assert!(read[0].len() < 1000, "{} bytes", read[0].len());
    assert!(matches!(Step::decode(&read[0]), Err(JournalError::Corrupt(_))));
}
