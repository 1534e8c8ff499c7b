//! `steadfast limits`: what the ledger knows of every budget that processes share.

use serde_json::{Value, json};
use steadfast_core::time::Timestamp;
use steadfast_store::{Noted, Store};

use super::print;
use crate::exit::Exit;

/// Most budgets that are shown.
const MOST: usize = 1_000;

/// `steadfast limits`.
#[derive(Debug, clap::Args)]
pub struct LimitsArgs {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &LimitsArgs, store: &dyn Store) -> anyhow::Result<Exit> {
    let now = store.now().await?;
    let budgets = store.ledger().budgets(MOST).await?;
    let out: String = if args.json {
        budgets.iter().map(|noted| format!("{}\n", object(noted, now))).collect()
    } else {
        table(&budgets, now)
    };
    print::all(&out);
    Ok(Exit::Done)
}

/// A note as data; `null` where it is not of a form that this build reads.
fn object(noted: &Noted, now: Timestamp) -> Value {
    let note: Value = serde_json::from_slice(&noted.note).unwrap_or(Value::Null);
    json!({
        "budget": noted.budget,
        "status": note["status"],
        "members": note["members"],
        "keeper": noted.keeper,
        "kept": noted.until > now,
        "noted_at": noted.noted_at,
        "age_ms": u64::try_from(now.since(noted.noted_at).as_millis()).unwrap_or(u64::MAX),
    })
}

fn table(budgets: &[Noted], now: Timestamp) -> String {
    if budgets.is_empty() {
        return "no budget is shared yet: a worker notes each with its first requests\n".to_owned();
    }
    let head = [
        "budget",
        "limit/min",
        "window",
        "used",
        "waiting",
        "oldest",
        "429s",
        "gate",
        "breaker",
        "members",
        "noted",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(budgets.iter().map(|noted| row(noted, now)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 11]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(noted: &Noted, now: Timestamp) -> [String; 11] {
    let all = object(noted, now);
    let status = &all["status"];
    let age = format!("{} s ago", now.since(noted.noted_at).as_secs());
    if !status.is_object() {
        let unreadable = "unreadable note".to_owned();
        let none = || "-".to_owned();
        return [
            print::line(&noted.budget, 60),
            unreadable,
            none(),
            none(),
            none(),
            none(),
            none(),
            none(),
            none(),
            none(),
            age,
        ];
    }
    let word = |value: &Value| print::line(value.as_str().unwrap_or("-"), 40);
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
    let sourced = |what: String, source: &Value| format!("{what} ({})", word(source));
    let limit = status["limit"]["per_minute"].as_f64();
    let limit = limit
        .map_or("unknown".to_owned(), |limit| sourced(format!("{limit:.0}"), &status["limit"]["source"]));
    let gate = status["gate"].as_object().map_or("open".to_owned(), |gate| {
        format!("{} for {} s", word(&gate["reason"]), gate["wait_ms"].as_u64().unwrap_or(0) / 1_000)
    });
    let members = all["members"].as_array().map_or(0, Vec::len).max(1);
    [
        print::line(&noted.budget, 60),
        limit,
        sourced(word(&status["kind"]), &status["kind_source"]),
        number(&status["used"]),
        number(&status["waiting"]),
        format!("{} s", status["oldest_wait_ms"].as_u64().unwrap_or(0) / 1_000),
        number(&status["rejected"]),
        gate,
        word(&status["breaker"]),
        members.to_string(),
        age,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(note: &str) -> Noted {
        Noted {
            budget: "llm".into(),
            keeper: "runner-1#ab".into(),
            until: Timestamp::from_secs(20),
            note: note.as_bytes().to_vec(),
            noted_at: Timestamp::from_secs(7),
        }
    }

    const NOTE: &str = r#"{"version":1,"status":{"limit":{"per_minute":600.0,"source":"headers"},"kind":"fixed",
        "kind_source":"headers","used":42,"rejected":1,"waiting":3,"oldest_wait_ms":2500,"breaker":"closed",
        "gate":{"reason":"rate_limit","wait_ms":9000}},"members":[{"name":"a#1","jobs":2},{"name":"b#2","jobs":1}]}"#;

    #[test]
    fn a_table_tells_where_each_budget_stands() {
        let text = table(&[noted(NOTE)], Timestamp::from_secs(10));
        let (head, row) = text.split_once('\n').unwrap();
        assert!(head.starts_with("budget  limit/min"), "{head}");
        let cells: Vec<&str> =
            row.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let want = [
            "llm",
            "600 (headers)",
            "fixed (headers)",
            "42",
            "3",
            "2 s",
            "1",
            "rate_limit for 9 s",
            "closed",
            "2",
            "3 s ago",
        ];
        assert_eq!(cells, want);
    }

    #[test]
    fn garbage_in_the_ledger_is_said_to_be_so() {
        for note in ["", "not json", "{\"version\":99}", "[1,2]"] {
            let text = table(&[noted(note)], Timestamp::from_secs(10));
            assert!(text.contains("unreadable note"), "{text}");
            assert_eq!(object(&noted(note), Timestamp::from_secs(10))["status"], Value::Null);
        }
    }
}
