//! What a server says of itself when it is greeted, and what about it an operator ought to know.

use redis::{Value, from_redis_value_ref};

/// The answer to HELLO; empty words where a server does not say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// `standalone`, `cluster` or `sentinel`.
    pub mode: String,
    /// `master` or `replica`.
    pub role: String,
}

impl Greeting {
    pub fn read(answer: &Value) -> Self {
        let text = |value: &Value| from_redis_value_ref::<String>(value).unwrap_or_default();
        let mut greeting = Greeting::default();
        let mut take = |name: &Value, value: &Value| match text(name).as_str() {
            "mode" => greeting.mode = text(value),
            "role" => greeting.role = text(value),
            _ => {}
        };
        match answer {
            Value::Array(words) => words.chunks_exact(2).for_each(|pair| take(&pair[0], &pair[1])),
            Value::Map(pairs) => pairs.iter().for_each(|(name, value)| take(name, value)),
            _ => {}
        }
        greeting
    }
}

/// What `INFO memory` says against keeping a queue there; `None` if nothing.
pub(super) fn evicts(info: &str) -> Option<&str> {
    let value = |name: &str| {
        info.lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| *key == name))
            .map(|(_, value)| value.trim())
    };
    value("maxmemory_policy").filter(|policy| *policy != "noeviction")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn both_protocols_greet() {
        let wanted = Greeting { mode: "cluster".into(), role: "master".into() };
        let pairs = [("server", "redis"), ("mode", "cluster"), ("role", "master")];
        let flat = pairs.iter().flat_map(|(name, value)| [word(name), word(value)]).collect();
        assert_eq!(Greeting::read(&Value::Array(flat)), wanted);
        let map = pairs.iter().map(|(name, value)| (word(name), word(value))).collect();
        assert_eq!(Greeting::read(&Value::Map(map)), wanted);
        assert_eq!(Greeting::read(&Value::Int(1)), Greeting::default());
    }

    #[test]
    fn a_policy_that_evicts_is_seen() {
        assert_eq!(
            evicts("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"),
            Some("allkeys-lru")
        );
        assert_eq!(evicts("maxmemory_policy:noeviction\r\n"), None);
        assert_eq!(evicts(""), None);
    }
}
